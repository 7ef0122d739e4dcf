from experiments.tasks.text_task import drop_repeats, normalize


def test_normalize_keeps_letters_and_digits():
    assert normalize(" She has  70 sea-shells .\nHow MANY ?") == "she has 70 sea shells how many"
    assert normalize("Ça_va") == "ça va"


def test_first_of_a_question_is_kept_unless_seen():
    seen = {"already here"}
    pairs = [("A b?", 1), ("a  B .", 2), ("Already, here!", 3), ("c", 4)]
    assert drop_repeats(pairs, seen) == ([("A b?", 1), ("c", 4)], 2)
    assert seen == {"already here", "a b", "c"}
    assert drop_repeats([("C", 5)], seen) == ([], 1)
