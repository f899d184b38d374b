"""The tables, claims and figures of experiments whose pages have some of their own, one
module each.
"""
