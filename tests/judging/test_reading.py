"""What counts as a verdict in a judge's words, and what does not."""

from __future__ import annotations

import math
import re
import time

import pytest

from ropo.judging.reading import (
    _LONGEST_RUN,
    LOG_PROBS,
    TEXT,
    _answer,
    is_thinking,
    read_letter,
    read_preference,
    read_rating,
    spoken,
)

LETTERS = [
    ("A", "A"),
    ("B", "B"),
    (" b.\n", "B"),
    ("**A**", "A"),
    ("[[B]]", "B"),
    ("Answer B", "B"),
    ("The better answer is A.", "A"),
    ("My verdict: B", "B"),
    ("B\n\nBecause the answer is right.", "B"),
    ("A good question.", None),
    ("A or B", None),
    ("Both are good.", None),
    ("AB", None),
    ("C", None),
    ("Answer", None),
    ("I would say that B, but A is fine", None),
    ("Answer: B", "B"),
    ("(A)", "A"),
    ("Option B is better", "B"),
    ("Option B is better.", "B"),
    ("<think>A is good. Answer: A</think>\nB", "B"),
    ("A seems ok </think> **B**", "B"),
    ("<think>Answer: A", None),
    ("<think></think>A", "A"),
    ('{"verdict": "B"}', "B"),
    ('```json\n{"reason": "Answer A is better than B at first", "winner": "B"}\n```', "B"),
    ('{"reason": "Answer A is better', None),
    ('{"better_answer": "A", "why": "x"}', "A"),
    ('{"A": 3, "B": 5}', None),
    ('Here it is:\n{"answer": "A"}', "A"),
    ("\\boxed{B}", "B"),
    ("The answer is $\\boxed{B}$.", "B"),
    ("<answer>B</answer>", "B"),
    ("Long reason. <answer>B</answer>", "B"),
    ("B because it is more accurate.", "B"),
    ("B - more accurate", "B"),
    ("B: it is more accurate", "B"),
    ("B. It is more accurate.", "B"),
    ("A: good\nB: bad", None),
    ("A. Good structure. B. Poor.", None),
    ("Answer A is better than Answer B.", "A"),
    ("Answer A is better than Answer B because it does not invent.", "A"),
    ("A is not better than B.", None),
    ("Neither A nor B is better.", None),
    ("I cannot decide whether A is better.", None),
    ("If you want brevity, A is better.", None),
    ("Which is better, A or B?", None),
    ("I prefer B over A.", "B"),
    ("I choose A", "A"),
    ("I'd go with B.", "B"),
    ("I would pick Answer A since it is right.", "A"),
    ("The second answer is better.", "B"),
    ("The first response is clearly better than the second.", "A"),
    ("Answer A is better at formatting. Answer B is right.", None),
    ("A is better in style, but B is correct.", None),
    ("Answer A is better in style. Answer B is better in accuracy.", None),
    ("Answer A is more concise. Overall, B is better.", "B"),
    ("A is better.\nOverall, B is better.", "B"),
    ("**Answer A**\nFine.\n**Answer B**\nCorrect.\n**Verdict:** B", "B"),
    ("A\nB", None),
    ("Answer: A\nWait.\nAnswer: B", "B"),
    ("Verdict: A. Wait, Verdict: B", "B"),
    ("Answer: A\n\nCorrection: B", "B"),
    ("I think A. Hmm, B is better. Actually, A.", "A"),
    ("[[A]] or [[B]]", None),
    ("Answer: A or B", None),
    ("Verdict: A/B", None),
    ("Final answer: **B**", "B"),
    ("**Answer:** B", "B"),
    ("# Verdict\nB", "B"),
    ("Verdict: B because it is right", "B"),
    ("Answer: A, since it is complete.", "A"),
    ("A, B", None),
    ("Winner: Assistant A", "A"),
    ("“B”", "B"),
    ("Answer：Ｂ", "B"),
    ("B wins.", "B"),
    ("The winner is B.", "B"),
    ("Tie", None),
    ("It's a tie", None),
    ("I am not sure.", None),
    ("", None),
    ("The answer is B.", "B"),
    ("Response A is superior.", "A"),
    ("analysisLet me see, A is fine.assistantfinalB", "B"),
    ("<|channel|>analysis<|message|>A is fine<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>", "B"),
    ("Answer: A\nHmm, actually B is better.", None),
    ("A is better. B is better.", None),
    ("B is better than A.", "B"),
    ("Answer A is better than B, but only slightly.", "A"),
    ("Answer (B)", "B"),
    ("Answer_b", "B"),
    ("<answer_b>", "B"),
    ("A?", None),
    ("Not A", None),
    ("Initially A is better.", None),
    ("I think A is the best answer.", "A"),
    ("I believe that answer B is the better one.", "B"),
    ("B is the better answer because A is wrong.", "B"),
    ("A > B", None),
    ("Let me compare. Answer A gives details. Answer B is short. So the better answer is A.", "A"),
    ("Looking at A, I see errors. Therefore B.", "B"),
]
LETTERS += [
    ('[{"model": "A", "rank": 2}, {"model": "B", "rank": 1}]', None),
    ('{"answer": "A", "score": 7}\n{"answer": "B", "score": 9}', None),
    ('{"verdict": {"winner": "B", "reason": "A is wrong"}}', "B"),
    ('{"winning_answer": "Answer A"}', "A"),
    ("Both answers are right, but Answer B is better.", "B"),
    ("Answer A is the better answer.\n\nLet me know if you want more details.", "A"),
    ("**Winner: Answer A**\n\nAnswer B has an error.", "A"),
    ("B is the right choice.", "B"),
    ("Answer A is worse.", None),
    ("Worse: B", None),
]
# What was taken back or denied, and words that only look like it.
LETTERS += [
    ("Answer: A because B has few, or no, facts.", "A"),
    ("A is better. B has none, no facts, nothing.", "A"),
    ("I choose A. No wait, B is better.", "B"),
    ("A. Hmm, no: B", "B"),
    ("The better answer is A... no, B.", "B"),
    ("I doubt that A is better.", None),
    ("Nobody would say A is better.", None),
    ("I choose A. Scratch that, B.", "B"),
    ("I choose A. No.", None),
    ("A. No wait.", None),
    ("I choose A, or rather B.", "B"),
    ("I pick A, wait, no, B.", "B"),
    ("A - no, B", "B"),
    ("Verdict: A. On second thought, B.", "B"),
    ("I choose A. I take that back. B is better.", "B"),
    ("I disagree that A is better.", None),
    ("It is wrong that A is better.", None),
    ("I refuse to choose A.", None),
    ("No one thinks A is better.", None),
    ("None would pick A.", None),
    ("I was going to choose A.", None),
    ("I choose A. I changed my mind: B", "B"),
    ("A\n\nNo, wait, the right answer is B.", None),
    ("It is doubtful that A is better.", None),
    ("A is better. No, B is better.", "B"),
    ("[[A]] No wait, [[B]]", None),
    ("Verdict: A\nWait, no. Verdict: B", "B"),
    ("A, I mean B", "B"),
    ("I choose A. Sorry, no, B.", "B"),
    ("Answer: A\nNo!\nAnswer: B", "B"),
    ("I question whether A is better.", None),
    ("I choose A. My mistake, B.", "B"),
    ("Few would say A is better.", None),
    ("A. Correction, B.", "B"),
    ("Answer B is better because it is correct.", "B"),
    ("Without a doubt, A is better.", "A"),
    ("A is undoubtedly better.", "A"),
    ("Verdict: A. No errors found.", "A"),
    ("Is B right? No, it is wrong. Answer: A", "A"),
    ("Verdict: A\n\nIs B correct? No, it is wrong.", "A"),
    ("I prefer A, as B refuses to answer.", "A"),
    ("B refuses to answer, so A is better.", "A"),
    ("**B**\n\nAnswer A has no sources.", "B"),
    ("A. It has no errors, no fluff.", "A"),
    ("Beyond doubt, B is better.", "B"),
    ("Verdict: B\nErrors in A: yes.\nErrors in B: no.", "B"),
    ("No doubt, A is better.", "A"),
    ("A\n\n- No hallucinations\n- No fluff", "A"),
]
# Cut at the longest answer: what follows might have taken it back.
CUT_LETTERS = [
    ("A", "A"),
    ("**A", "A"),
    ("[[A", "A"),
    ("Answer: A", "A"),
    ("Answer A", None),
    ("Answer A is better in", None),
    ("The better answer is a", None),
    ("Answer A is better than B. It", None),
    ("Verdict: B\nBecause it is", "B"),
    ("B\n\nBecause", "B"),
    ("**Answer A**\nIt is nice and", None),
    ("B because it", "B"),
    ('{"verdict": "B", "reason": "it', "B"),
    ('{"reason": "A is better"', None),
    ("Let me think. I choose A at first but", None),
    ("A good", None),
]
# Where the judge was told that C is a tie.
WITH_TIE = [
    ("[[A]] is better", "A"),
    ("I choose [[B]]", "B"),
    ("[[C]]", "C"),
    ("[[A]] or [[B]]", None),
    ("[A]", "A"),
    ("nothing", None),
    ("Tie", "C"),
    ("Verdict: tie", "C"),
    ("It is a tie.", "C"),
    ("Both are fine. My final verdict is tie: [[C]]", "C"),
    ("A is worse than B, so [[B]]", "B"),
    ("Long. [[B]] it is", "B"),
    ("After comparing, my verdict: [[A]]", "A"),
]
RATINGS = [
    ("Good. Rating: [[7]]", 7),
    ("[[6.5]] and then [[2]]", 6.5),
    ("[[8/10]]", 8),
    ("Rating: [9]", 9),
    ("[[0]]", None),
    ("[[11]]", None),
    ("Rating: 7", 7),
    ("7/10", 7),
    ("7 / 10", 7),
    ("I give it 7 out of 10.", 7),
    ("<think>Rating: [[3]]</think>Rating: [[8]]", 8),
    ("<think>[[3]]", None),
    ("It says [[10]] itself. Grade: [[2.5]]", 2.5),
    ("[[ 8 / 10 ]]", 8),
    ("7", 7),
    ("**Rating:** 7/10", 7),
    ("Rating: 85/100", None),
    ("4/5", None),
    ("Rating: 4/5", None),
    ("Style: 7/10, accuracy: 3/10.", None),
    ("Style: 7/10. Overall rating: 5/10", 5),
    ("Rating: 7-8", None),
    ("Rating: 7 or 8", None),
    ("Rating: -3", None),
    ('{"rating": 7}', 7),
    ('{"score": "7/10", "why": "x 3/10"}', 7),
    ('{"rating": 70}', None),
    ("", None),
    ("No idea", None),
    ("There are 7 errors.", None),
    ("Rating: **7**", 7),
    ("Rating: 7.5", 7.5),
    ("The rating is 7.", 7),
    ("Score: 10", 10),
    ("Score: 100", None),
    ("Score: 7%", None),
    ("<rating>7</rating>", 7),
    ("rating of 6 out of 10", 6),
    ("\\boxed{7}", None),
    ("Rating: 7/10.", 7),
    ("Rating: ten", None),
    ("7.5/10", 7.5),
    ("Rating: 8 (good)", 8),
]
RATINGS += [
    ("Score: 7/10 for style and 9/10 for facts.", None),
    ("I would rate this answer an 8.", 8),
    ("I'd give it a 7 because it is short.", 7),
    ("I give it 2 stars out of 5.", None),
    ("It names 7 of 10 rivers.", None),
    ("Rating: 7/10 (7/10)", 7),
]
# Decimal commas, lists, and numbers of a scale, a sum or a class.
RATINGS += [
    ("Rating: 7. No wait, 5.", 5),
    ("Score: 7. Hmm, no: 6/10", 6),
    ("I give it a 7... no, a 6.", None),
    ("Rating: 7. No.", None),
    ("[[7]] No wait, [[5]]", 7),  # as FastChat reads it
    ("7,5/10", 7.5),
    ("Note: 7,5/10", 7.5),
    ("Grade: 7,5", 7.5),
    ("I give it 7,5", 7.5),
    ("Rating: 1,000", None),
    ("Grade: 7, 5", None),
    ("scores: 7,8,9", None),
    ("Score: 7,8,9", None),
    ("Rating: 10,000", None),
    ('{"rating": "7,5"}', 7.5),
    ('{"rating": 7,5}', 7.5),
    ('{"rating": "1,000"}', None),
    ("Rating: 7,5 out of 10", 7.5),
    ("7,5", 7.5),
    ("Rating: **7,5**", 7.5),
    ("The score is 8,25.", 8.25),
    ("Grade: 1,000/10", None),
    ("1,000/10", None),
    ("7,8,9/10", None),
    ("I give it 1,000", None),
    ("Grade: [[7,5]]", 7.5),
    ("7, 5", None),
    ("Grade: 7 and 8", None),
    ('{"score": 1,000}', None),
    ("Rating: [7,5]", None),
    ("Rating: [7, 5]", None),
    ("I give it 7, 8", None),
    ("10,0/10", 10),
    ("Score: 7/10,8/10", None),
    ("Rating (1 = worst, 10 = best): 6", 6),
    ("Grade 1 (useless) to 10: 6", 6),
    ("The score is 9 minus 3, so 6.", None),
    ("Suitable for grade 5 pupils.", None),
    ("Rating (10 = best, 1 = worst): 6", 6),
    ("Rating (1-10): 7", 7),
    ("Rating (1 to 10): 7", 7),
    ("Score [1-10]: 7", 7),
    ("Rating 1=worst 10=best: 6", 6),
    ("Rating (1 = worst, 5 = best): 4", None),
    ("Grade 1 (bad) to 5 (good): 4", None),
    ("Score: 9, minus 3 for style.", None),
    ("9/10 minus 3, so 6", None),
    ("I give it 9, minus 2 for style.", None),
    ("Suitable for grade 5.", None),
    ("A grade 3 vocabulary.", None),
    ("They score 3 goals.", None),
    ("I mark 3 errors here.", None),
    ("The maximum score is 10. I give it 6.", 6),
    ("I would rate this from 1 (worst) to 10 (best): 6", 6),
    ("On a scale of 1 to 10, I give it 7.", 7),
    ("Grade from 1 to 10: 6", 6),
    ("Score: 5 + 1 = 6", None),
    ("I start with a score of 10 and deduct 3. Score: 7", 7),
    ("Rating (1 being worst and 10 best): 6", 6),
    ("Rating (1: worst; 10: best): 6", 6),
    ("Grade (0-10): 8", 8),
    ("Grade: 6 (1 = worst, 10 = best)", 6),
    ("Written for grade 5-level readers.", None),
    ("Score 8 points", 8),
    ("Rating on a scale of 1-10: 7", 7),
    ("Rating (1 is the lowest, 10 is the highest): 6", 6),
    ("Rating [1 = worst, 10 = best]: 6", 6),
    ("The lowest score is 1 and the highest score is 10. I give it 6.", 6),
    ("Good. Grade: [[7]]", 7),
    ("Grade: 8", 8),
    ("Grade: 8 because it is short, clear and right.", 8),
    ("**Grade:** 6/10", 6),
    ("I would rate this a 7.", 7),
    ("Rating: 7 = good", 7),
    ("Score: 8, plus it is short.", 8),
    ("Rating: 7, 2 errors were found.", 7),
    ("Score 7 out of 10", 7),
    ("Score 7 because it is fine", 7),
    ("Grade 8.", 8),
    ("It names 5 rivers, 3 wrongly. Grade: 4", 4),
    ("Rating: 9 (flawless but for 1 typo)", 9),
    ("In 1,000 words it says little. Rating: 3", 3),
    ("Grade: 7. Suitable for grade 5 pupils.", 7),
    ("The grade is 6 points.", 6),
    ("[[1]]", 1),
    ("(1/10)", 1),
    ("Rating: useless (1/10)", 1),
    ("1 out of 10", 1),
    ("Score: 10/10", 10),
    ("It gets a perfect score of 10.", 10),
    ("I give it a 9, as it is fine.", 9),
    ("Score: 7, less than perfect.", 7),
    ("Grade: 7.5", 7.5),
    ('{"grade": 7}', 7),
    ("Rating: 8\nThe text has 1,000 words.", 8),
    ("Rating: 7, since 3 of 10 facts are wrong.", 7),
    ("Grade **7**", 7),
    ("My rating is 5.", 5),
    ("Rating: 7; 2 points off for style", 7),
    ("Score: 8 and it is short", 8),
]
CUT_RATINGS = [
    ("Rating: 1", None),
    ("Good. [[7]]", 7),
    ("Fine, 7/1", None),
    ("Rating: 7 because it", 7),
    ("", None),
]


@pytest.mark.parametrize(("text", "wanted"), LETTERS)
def test_only_a_plain_verdict_counts(text, wanted):
    assert read_letter(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), [row for row in LETTERS if row[1]])
@pytest.mark.parametrize(
    "thinking",
    [
        "<think>Answer: {other}</think>",
        "So far: {other}. Answer: {other}\n</think>\n\n",
        "<think>\n\n</think>\n\n",
        "<thinking>{other}</thinking><reasoning>\n{other}\n</reasoning> ",
        "[THINK]{other}[/THINK]",
        "<|channel|>analysis<|message|>{other}<|end|><|start|>assistant<|channel|>final<|message|>",
        "analysisAnswer: {other}assistantfinal",
    ],
)
def test_thinking_before_it_does_not_matter(text, wanted, thinking):
    other = "A" if wanted == "B" else "B"
    assert read_letter(thinking.format(other=other) + text) == wanted
    assert read_letter(thinking.format(other=other)) is None


# Rows that stay what they are when their letters change places: without an article, an ordinal, or letters in disguise.
SYMMETRIC = [row for row in LETTERS if not re.search("A good|first|second|final[AB]|\uff22", row[0])]


@pytest.mark.parametrize(("text", "wanted"), SYMMETRIC)
def test_the_other_letter_in_the_same_words_is_the_other_verdict(text, wanted):
    swap = {"A": "B", "B": "A", "a": "b", "b": "a"}
    turned = re.sub(r"(?<![^\W_])[ABab](?![^\W_])", lambda match: swap[match[0]], text)
    assert read_letter(turned) == (wanted and swap[wanted])


@pytest.mark.parametrize(("text", "wanted"), CUT_LETTERS)
def test_what_was_cut_counts_only_where_it_is_complete(text, wanted):
    assert read_letter(text, cut=True) == wanted


@pytest.mark.parametrize(("text", "wanted"), WITH_TIE)
def test_a_tie_is_a_verdict_where_it_was_offered(text, wanted):
    assert read_letter(text, "ABC") == wanted


@pytest.mark.parametrize(("text", "wanted"), RATINGS)
def test_a_grade_is_read_from_1_to_10(text, wanted):
    assert read_rating(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), CUT_RATINGS)
def test_a_number_at_a_cut_may_lack_digits(text, wanted):
    assert read_rating(text, cut=True) == wanted


@pytest.mark.parametrize("text", ["<think>[[3]]</think>", "[[3]] it was</think>", "<think>Rating: 3", "<think>3/10"])
def test_a_grade_that_was_only_thought_does_not_count(text):
    assert read_rating(text) is None
    assert read_rating(text.replace("</think>", "") + "</think> Rating: [[8]]") == 8.0


@pytest.mark.parametrize("read", [read_letter, read_rating])
@pytest.mark.parametrize(
    "nested", ['{"a":' * 20_000, '{"verdict":' + "[" * 20_000, '{"a":' * 20_000 + '"A"' + "}" * 20_000]
)
def test_what_is_nested_by_the_thousand_is_no_verdict(read, nested):
    assert read(nested) is None


@pytest.mark.parametrize("depth", range(700, 1000, 25))
@pytest.mark.parametrize("opening", ['{"a":', '{"a":[', '{"verdict":[['])
def test_what_is_nested_by_the_hundred_raises_nothing(depth, opening):
    closing = opening.replace('{"a":', "}").replace('{"verdict":', "}").replace("[", "]")[::-1]
    assert read_rating(opening * depth + '"A"' + closing * depth) is None
    assert read_letter(opening * depth + '"A"' + closing * depth) in ("A", None)


RUNS = ["_" * 60_000, "(" * 50_000, "_(" * 30_000, "\n " * 30_000, "A" + "(" * 50_000, "a,b" * 20_000, "A, " * 20_000]


@pytest.mark.parametrize("run", RUNS)
def test_tens_of_thousands_of_marks_take_no_minute(run):
    """They took 66 to 96 s."""
    begun = time.process_time()
    found = read_letter(run), read_rating(run), read_letter(run, cut=True), read_preference(run, {"A": -0.1})
    assert time.process_time() - begun < 15
    assert None in found


@pytest.mark.parametrize("run", ["_" * 60_000, "-" * 300 + "\n", "(" * 50_000])
def test_a_verdict_beside_a_long_run_of_marks_is_read(run):
    assert (
        read_letter(f"B\n{run}") == read_letter(f"{run}\nB") == read_letter(f"Verdict: B\n{run}\nIt is right.") == "B"
    )
    assert read_rating(f"Rating: 7\n{run}") == read_rating(f"{run}\nRating: 7") == 7.0
    assert len(_answer(run)) <= _LONGEST_RUN


def test_thinking_is_told_from_speech():
    assert spoken("<think>a<think>b</think>c</think>d") == "d"
    assert spoken("a</think>b</think>c") == "c"
    assert spoken("before<think>after") == "before"
    assert is_thinking("<assistant><think>\n")
    assert not is_thinking("<assistant><think>\n\n</think>\n\n")


def tokens(**mass):
    return {token: math.log(share) for token, share in mass.items()}


def test_log_probabilities_weigh_the_verdict():
    """P(A) = 0.2 + 0.1 (with a blank), P(B) = 0.6: B wins with 0.6 / 0.9."""
    found = {**tokens(B=0.6, A=0.2, The=0.1, b=0.05), " A": math.log(0.1)}
    assert read_preference("B", found) == (pytest.approx(0.6 / 0.9), LOG_PROBS)


@pytest.mark.parametrize(
    ("text", "first_token", "wanted"),
    [
        ("Answer: A", tokens(Answer=0.9, B=0.05), (0.0, TEXT)),
        ("<think>Hm</think>B", tokens(**{"<think>": 0.99, "A": 0.01}), (1.0, TEXT)),
        ("B", tokens(A=0.1, B=0.3, The=0.6), (1.0, TEXT)),  # the letters hold 0.4
        ("B", tokens(The=0.9), (1.0, TEXT)),
        ("B", None, (1.0, TEXT)),
        ("A good question.", tokens(A=0.95, B=0.01), None),  # an article
        ("A good question. Answer B is better.", tokens(A=0.95, B=0.01), (1.0, TEXT)),
        ("A or B", tokens(A=0.95, B=0.05), None),
        ("A is better because it", tokens(A=0.75, B=0.25), (pytest.approx(0.25), LOG_PROBS)),
        ("A\n\nIt is right.", tokens(A=0.75, B=0.25), (pytest.approx(0.25), LOG_PROBS)),
        ("Verdict: B", tokens(A=0.75, B=0.25), (1.0, TEXT)),  # of another token than the text's first
        ("no verdict", tokens(A=0.75, B=0.25), None),
        ("A is better. No, wait.", tokens(A=0.75, B=0.25), None),
        ("A. Hmm, no: B", tokens(A=0.75, B=0.25), (1.0, TEXT)),
    ],
)
def test_letters_without_most_of_the_mass_or_the_verdict_leave_it_to_the_text(text, first_token, wanted):
    assert read_preference(text, first_token, cut=text.endswith("it")) == wanted
