"""What is taken from the row of a training."""

from lora_jax.experiment.run import final_scores


def test_final_scores_are_not_those_of_validation():
    row = {"metrics": {"validation/accuracy": 0.9, "test/accuracy": 0.8}}
    assert final_scores(row) == {"test/accuracy": 0.8}


def test_validation_is_the_final_score_of_data_without_a_test_split():
    row = {"metrics": {"validation/accuracy": 0.9}}
    assert final_scores(row) == {"validation/accuracy": 0.9}
