"""Eight worked problems in English, shown to the base LM before a problem of MGSM (ours)."""

from typing import NamedTuple


__all__ = ["WORKED_EXAMPLES", "WorkedExample"]


class WorkedExample(NamedTuple):
    """
    A problem with its working.

    Args:
        question (`str`): The problem.
        answer (`str`): The working, which ends with "The answer is" and the number.
    """

    question: str
    answer: str


WORKED_EXAMPLES = (
    WorkedExample(
        "A ferry has 45 seats. On Monday 28 people are on board, and 9 more come at the second pier. How many seats "
        "stay free?",
        "28 people and 9 more make 28 + 9 = 37 people. Of 45 seats 45 - 37 = 8 stay free. The answer is 8.",
    ),
    WorkedExample(
        "Amina bakes 6 trays of 12 buns. She keeps 10 buns and sells the rest. How many does she sell?",
        "6 trays of 12 buns are 6 * 12 = 72 buns. Without the 10 that she keeps, 72 - 10 = 62 are left. The answer "
        "is 62.",
    ),
    WorkedExample(
        "A notebook costs $4 and a pen costs half as much. What do 3 notebooks and 5 pens cost in dollars?",
        "A pen costs 4 / 2 = 2 dollars. 3 notebooks cost 3 * 4 = 12 dollars and 5 pens cost 5 * 2 = 10 dollars. "
        "Together that is 12 + 10 = 22 dollars. The answer is 22.",
    ),
    WorkedExample(
        "Three brothers share 51 marbles equally. The youngest then loses 4 of his. How many has he now?",
        "Each brother gets 51 / 3 = 17 marbles. After losing 4 the youngest has 17 - 4 = 13. The answer is 13.",
    ),
    WorkedExample(
        "A train leaves at 9 o'clock and goes 80 km an hour. How many km has it gone at half past eleven?",
        "From 9 o'clock to half past eleven are 2.5 hours. In that time it goes 2.5 * 80 = 200 km. The answer is 200.",
    ),
    WorkedExample(
        "A school of 240 children has 60% girls. A quarter of the boys play chess. How many boys play chess?",
        "100% - 60% = 40% of the children are boys, which is 240 * 0.4 = 96. A quarter of them is 96 / 4 = 24. The "
        "answer is 24.",
    ),
    WorkedExample(
        "Bao reads 15 pages on the first day and twice as many on each of the next 3 days. How many pages are that?",
        "Twice 15 pages are 15 * 2 = 30 pages. On 3 days that makes 3 * 30 = 90 pages. With the first day it is 90 + "
        "15 = 105. The answer is 105.",
    ),
    WorkedExample(
        "A tank holds 500 litres and is two fifths full. Each minute 20 litres flow in. When is it full, in minutes?",
        "Two fifths of 500 litres are 500 * 2 / 5 = 200 litres. 500 - 200 = 300 litres are missing. At 20 litres a "
        "minute that takes 300 / 20 = 15 minutes. The answer is 15.",
    ),
)
