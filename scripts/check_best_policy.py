"""The best worst-type utility of one policy in the built-in populations, once more and by other means.

    python scripts/check_best_policy.py

Nothing of palign is imported. Every text of a small vocabulary is written out (three cheerful words, three hedges and
two plain words are as good as more where the first two count), its words are counted, and the linear programme is
given to scipy. Prints a line for each population: the optimum, the utility of each type there, and the best text of
each type alone.
"""

import itertools

import numpy as np
from scipy.optimize import linprog

CHEER, HEDGE, PLAIN = ("wonderful", "lovely", "great"), ("perhaps", "maybe", "possibly"), ("open", "quiet")
DETAILS = ("near the station", "by the old wall", "at the end of the street")  # of three, four and six words
# cheer, hedge, length, what a second word counts, words that count
POPULATIONS = {
    "opposed": {"cheerful": (1, -0.7, -1, 1, 20), "thorough": (-0.7, 0, 2, 1, 20), "careful": (-0.8, 1.2, 0, 1, 20)},
    "shared": {
        "bright": (1.38, 0, -0.3, 0.25, 14),
        "cautious": (0.3, 1.2, 0, 0.25, 14),
        "detailed": (0.42, 0, 2.25, 0.25, 14),
    },
}


def clauses(detail: str) -> list[str]:
    """Every clause about the park."""
    lines = [f"the park is {a}{detail}" for a in (*CHEER, *PLAIN)] + [f"what a {a} park{detail}" for a in CHEER]
    lines += [f"{a} and {b}{detail}" for a, b in itertools.permutations(CHEER, 2)]
    for h, p in itertools.product(HEDGE, PLAIN):
        lines += [
            f"{h} the park is {p}{detail}",
            f"the park seems {h} {p}{detail}",
            f"{h} the park might be {p}{detail}",
        ]
    return [*lines, f"the park is open and quiet{detail}", *(f"it is {p}{detail}" for p in PLAIN)]


def counts() -> set[tuple[int, int, int]]:
    """Different cheerful words, different hedges, and words of every text."""
    bare, detailed = clauses(""), [clause for detail in DETAILS for clause in clauses(f" {detail}")]
    parts = {line: (frozenset(line.split()), len(line.split())) for line in (*bare, *detailed)}
    kinds = {  # what matters of a clause
        line: (words & {*CHEER}, words & {*HEDGE, "seems", "might"}, n) for line, (words, n) in parts.items()
    }
    texts = set()
    for lines, n_clauses in ((bare, 1), (bare, 2), (bare, 3), (detailed, 1), (detailed, 2)):
        different = {kinds[line] for line in lines}
        for text in itertools.combinations_with_replacement(different, n_clauses):
            cheer, hedge = (len(frozenset().union(*(clause[i] for clause in text))) for i in (0, 1))
            texts.add((cheer, hedge, sum(clause[2] for clause in text)))
    return texts


def main() -> dict[str, float]:
    """Print the optima; returns them by population."""
    texts, optima = np.array(sorted(counts())), {}
    for name, tastes in POPULATIONS.items():
        rows = []
        for cheer, hedge, length, second, enough in tastes.values():
            gain = np.array([0, 1, 1 + second, 1 + second, 1 + second, 1 + second])
            rows.append(cheer * gain[np.minimum(texts[:, 0], 2)] + hedge * gain[np.minimum(texts[:, 1], 2)])
            rows[-1] += length * (np.minimum(texts[:, 2], enough) - 8) / 10
        u = np.array(rows)
        n = u.shape[1]
        solved = linprog(
            np.append(np.zeros(n), -1.0), A_ub=np.hstack([-u, np.ones((len(u), 1))]), b_ub=np.zeros(len(u)),
            A_eq=np.append(np.ones(n), 0.0)[None], b_eq=[1.0], bounds=[(0, None)] * n + [(None, None)], method="highs",
        )  # fmt: skip
        optima[name] = -float(solved.fun)
        shown = ", ".join(
            f"{t} {v:.4f} of {m:.4f}" for t, v, m in zip(tastes, u @ solved.x[:n], u.max(1), strict=True)
        )
        print(f"{name}: best worst-type utility {optima[name]:.6f} ({shown}), over {n} kinds of text")
    return optima


if __name__ == "__main__":
    main()
