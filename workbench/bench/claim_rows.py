"""The claims of the trajectory and flow-map recipes: arms, what is compared, and in which figure; the rule is in `claims`."""

from __future__ import annotations

from workbench.bench.claims import Arm, Check, Claim

QUARTER = {"width": 60}  # 52 k parameters, where the network of points has 225 k
NO_WORSE = 1.1  # times the baseline's figure
GUIDANCE = 3.0

ROWS = (
    Claim(
        "rfpp", "rfpp", "arXiv 2405.20320", "Hard times drawn more often and a robust metric make one reflow round better in one step.",
        {
            "rfpp": Arm("rfpp"), "reflow": Arm("reflow", {"share": 1.0}),
            "reflow, then one step": Arm("reflow"),
        },
        (Check("rfpp", "ratio@1", "reflow"),),
        note="The baseline is straightening alone, as in the paper; our row of reflow, which ends with one-step distillation, is shown beside it.",
    ),
    Claim(
        "slimflow", "slimflow", "arXiv 2407.12718", "Annealed reflow and two-step guidance each help a student of a quarter of the parameters.",
        {
            "slimflow": Arm("slimflow", network=QUARTER),
            "without annealing": Arm("slimflow", {"anneal": 0.0}, network=QUARTER),
            "without two-step term": Arm("slimflow", {"two_step": 0.0}, network=QUARTER),
        },
        (Check("slimflow", "ratio@1", "without annealing"), Check("slimflow", "ratio@1", "without two-step term")),
        note="The student is a quarter of the usual network; the teacher is exact.",
    ),
    Claim(
        "ict", "ict", "arXiv 2310.14189", "Improved consistency training beats consistency training at equal budget.",
        {"ict": Arm("ict", counts=(1, 2)), "ct": Arm("ct", counts=(1, 2))},
        (Check("ict", "ratio@1", "ct"), Check("ict", "ratio@2", "ct")),
    ),
    Claim(
        "lcm", "lcm", "arXiv 2310.04378", "Skipping grid cells makes consistency distillation train faster: half the time gives equal quality.",
        {"lcm, half the time": Arm("lcm", counts=(1, 4), share=0.5), "cd": Arm("cd", counts=(1, 4)), "lcm": Arm("lcm", counts=(1, 4))},
        (
            Check("lcm, half the time", "ratio@1", "cd", factor=NO_WORSE), Check("lcm, half the time", "ratio@4", "cd", factor=NO_WORSE),
        ),
        note="Unguided: the claim is of the skipped cells alone. The steps of both are in the figures.",
    ),
    Claim(
        "tscd", "tscd", "arXiv 2404.13686", "A flow map trained within segments beats consistency distillation at four steps.",
        {"tscd": Arm("tscd", counts=(1, 4)), "cd": Arm("cd", counts=(1, 4))},
        (Check("tscd", "ratio@4", "cd"),),
    ),
    Claim(
        "ctm", "ctm", "arXiv 2310.02279", "Chained jumps of one student beat going to the data and noising again beyond two steps.",
        {"ctm": Arm("ctm", counts=(1, 2, 4, 8), samplers=("consistency",))},
        tuple(Check("ctm", f"ratio@{n}", "ctm", other_metric=f"ratio@{n}/consistency") for n in (4, 8)),
    ),
    Claim(
        "tbcm", "tbcm", "arXiv 2511.20410", "Without data, on the teacher's own trajectories, continuous consistency is as good at less time per step.",
        {"tbcm": Arm("tbcm"), "scm": Arm("scm")},
        (Check("tbcm", "ratio@1", "scm", factor=NO_WORSE), Check("tbcm", "step_ms", "scm")),
        note="The paper saves the encoding of images, which points do not need.",
    ),
    Claim(
        "splitmeanflow", "splitmeanflow", "arXiv 2507.16884",
        "Two jumps that add up replace MeanFlow's derivative: cheaper steps and no worse quality.",
        {"splitmeanflow": Arm("splitmeanflow"), "meanflow": Arm("meanflow", {"source": "teacher"}), "meanflow from data": Arm("meanflow")},
        (Check("splitmeanflow", "step_ms", "meanflow"), Check("splitmeanflow", "ratio@1", "meanflow", factor=NO_WORSE)),
        note="Both take the teacher's velocity, as SplitMeanFlow's distillation does; MeanFlow from data is shown beside them.",
    ),
    Claim(
        "meanflow-dispersive", "meanflow-dispersive", "arXiv 2510.07865", "Pushing inner features apart raises the diversity of one-step samples.",
        {
            "dispersive": Arm("meanflow-dispersive", teacher="mixture64"), "without": Arm("meanflow-dispersive", {"extras": ()}, teacher="mixture64"),
        },
        (Check("dispersive", "vendi@1", "without", want="higher"), Check("dispersive", "recall@1", "without", want="higher")),
        note="The paper's collapse is of policies; here the law is ten modes in 64 dimensions.",
    ),
    Claim(
        "freeflow-boot", "freeflow", "arXiv 2511.19428", "Without data, FreeFlow beats BOOT in one step.",
        {"freeflow": Arm("freeflow"), "boot": Arm("boot")},
        (Check("freeflow", "ratio@1", "boot"),),
    ),
    Claim(
        "freeflow-data", "freeflow", "arXiv 2511.19428", "Where the data do not match the teacher, FreeFlow comes nearer to it than recipes that use them.",
        {
            "freeflow": Arm("freeflow"), "cd": Arm("cd", data="turned"), "ayf": Arm("ayf", data="turned"),
            "scm": Arm("scm", data="turned"), "cd on its own data": Arm("cd"),
        },
        tuple(Check("freeflow", "ratio@1", other) for other in ("cd", "ayf", "scm")),
        note="The data are the teacher's modes turned by half the angle between them.",
    ),
    Claim(
        "agd", "agd", "arXiv 2503.07274", "Adapters of at most 5 % of the parameters halve the evaluations of guidance at equal quality.",
        {
            "agd": Arm("agd", teacher="digits/teacher", counts=(16,), guidance=GUIDANCE),
            "guided teacher": Arm("", teacher="digits/teacher", counts=(16,), guidance=GUIDANCE),
            "teacher without guidance": Arm("", teacher="digits/teacher", counts=(16,), guidance=1.0),
        },
        (
            Check("agd", "nfe@16", "guided teacher", factor=0.5), Check("agd", "frechet@16", "guided teacher", factor=NO_WORSE),
            Check("agd", "agreement@16", "guided teacher", want="higher", factor=0.99), Check("agd", "trained_share", limit=0.05),
        ),
        seconds=90.0,
        note=f"Digits at a guidance scale of {GUIDANCE:g}, which the student takes as an input from 1 to 6.",
    ),
)  # fmt: skip
