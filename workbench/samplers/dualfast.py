"""DualFast (arXiv 2506.13058): an output is moved away from, or towards, an earlier and noisier one, whose network error is smaller.

The correction is a rewriting of the table: it holds for every multistep solver, whatever its rows read and whether it keeps a base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workbench.samplers.plan import Row, Stage
from workbench.samplers.points import check_range


def dualfast_stages(stages: Sequence[Stage], dualfast: float) -> list[Stage]:
    """The table with each output m_j replaced by (1 + c_j) m_j - c_j m_i, c_j falling linearly from `dualfast` to 0.

    m_i is the last output before it at a noisier time and of the same kind; where there is none, and in a last step that is the x0
    estimate alone, the output stays. The paper's own coefficient schedule could not be confirmed. An exact
    teacher has no network error to lessen: there the order falls to 1.

    Args:
        stages: of a multistep solver. dualfast: -0.5 to 0.5; 0 returns them as they are.
    """
    dualfast = check_range("dualfast", dualfast, -0.5, 0.5, "0 is the solver itself")
    if not dualfast:
        return list(stages)
    shares = []  # of every output: c_j, and the stage whose output lends
    for j, stage in enumerate(stages):
        noisier = (i for i in range(j - 1, -1, -1) if stages[i].t > stage.t and stages[i].kind == stage.kind)
        lender = next(noisier, j)
        shares.append((dualfast * (1 - j / len(stages)) if lender < j else 0.0, lender))

    def moved(row: Row | None, i: int) -> Row | None:
        if row is None or not row.outputs:
            return row
        lent = [shares[i - k] for k in range(len(row.outputs))]
        found = [0.0] * (1 + i - min(lender for _, lender in lent))
        for k, (b, (share, lender)) in enumerate(zip(row.outputs, lent, strict=True)):
            found[k] += b * (1 + share)
            found[i - lender] -= b * share
        while found and found[-1] == 0:
            found.pop()
        return row._replace(outputs=tuple(found))

    made = [replace(stage, x=moved(stage.x, i), base=moved(stage.base, i)) for i, stage in enumerate(stages)]
    last = stages[-1]
    if last.kind == "x0" and last.x.x == last.x.base == 0 and not any(last.x.outputs[1:]):
        made[-1] = last
    return made
