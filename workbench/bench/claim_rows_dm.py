"""The claims of the distribution-matching, adversarial and reward recipes; recipes are looked up when a claim is run."""

from __future__ import annotations

from workbench.bench.claims import Arm, Check, Claim
from workbench.distill.objectives.levels import EachStep

NO_WORSE = 1.1  # times the baseline's figure
ALONE = {"gan": None}  # matching without a discriminator
DMD2 = "arXiv 2405.14867"
SMALL = {"width": 60}  # 52 k parameters, a quarter of the usual network of points
FORGOTTEN = 0

ROWS = (
    Claim(
        "dmd2-two-time-scales", "dmd2", DMD2, "Five critic updates to one of the student keep training steady, where one to one oscillates.",
        {
            "5 to 1": Arm("dmd2", ALONE | {"turns": 5, "ema": 0.5}, teacher="grid25"),
            "1 to 1": Arm("dmd2", ALONE | {"turns": 1, "ema": 0.5}, teacher="grid25"),
        },
        (Check("5 to 1", "swing", "1 to 1"), Check("5 to 1", "ratio@1", "1 to 1")),
        note="Without the GAN term and nearly without averaging, which would hide the swing; twenty-five modes.",
    ),
    Claim(
        "dmd2-gan", "dmd2", DMD2, "A GAN term on real data lets the one-step student pass its teacher.",
        {
            "with GAN": Arm("dmd2", {"gan": 0.1}, teacher="blurred", law="eight_gaussians"),
            "without": Arm("dmd2", ALONE, teacher="blurred", law="eight_gaussians"),
            "teacher": Arm("", teacher="blurred", law="eight_gaussians", counts=(49,)),
        },
        (Check("with GAN", "ratio@1", "teacher", other_metric="ratio@49"), Check("with GAN", "ratio@1", "without")),
        note="The teacher is the exact denoiser of a blurred, shrunken law; student and teacher are measured against the sharp one.",
    ),
    Claim(
        "dmd2-each-step", "dmd2", DMD2, "With a critic for each step a four-step student is nearer to the law than with one that sees the steps mixed.",
        {
            "a critic a step": Arm("dmd2", ALONE | {"inputs": 4, "anchor": EachStep()}, counts=(4,)),
            "one critic": Arm("dmd2", ALONE | {"inputs": 4}, counts=(4,)),
        },
        (Check("a critic a step", "ratio@4", "one critic"),),
        note="No claim of the paper, which has one critic: that matches only the mixture of what the steps make.",
    ),
    Claim(
        "f-distill", "f-distill", "arXiv 2502.15681", "Forward KL covers modes more evenly than Jensen-Shannon, and that than reverse KL.",
        {
            name: Arm("f-distill", {"divergence": name}, teacher="grid25")
            for name in ("kl", "jeffreys", "js", "reverse-kl", "softened-rkl")
        },
        (Check("kl", "balance@1", "js", want="higher"), Check("js", "balance@1", "reverse-kl", want="higher")),
        note="The full order is KL, Jeffreys, JS, reverse KL, softened reverse KL; the last and Jeffreys are shown beside them.",
    ),
    Claim(
        "phased-dmd", "phased-dmd", "arXiv 2510.27684", "Phases of steps with critics of their own keep more diversity than DMD2 at equal steps.",
        {
            "phased-dmd": Arm("phased-dmd", teacher="grid25", counts=(4,)),
            "dmd2": Arm("dmd2", ALONE | {"inputs": 4}, teacher="grid25", counts=(4,)),
        },
        (Check("phased-dmd", "balance@4", "dmd2", want="higher"), Check("phased-dmd", "recall@4", "dmd2", want="higher")),
    ),
    Claim(
        "decoupled-dmd", "decoupled-dmd", "arXiv 2511.22677", "Of a guided gap the guidance part is the engine, and the matching part the stabiliser.",
        {
            "both": Arm("decoupled-dmd", {"real": 3.0}, counts=(4,)),
            "matching alone": Arm("decoupled-dmd", {"real": 1.0}, counts=(4,)),
            "guidance alone": Arm("decoupled-dmd", {"real": 3.0, "matching": 0.0}, counts=(4,)),
        },
        (Check("both", "agreement@4", "matching alone", want="higher"), Check("both", "off_mode@4", "guidance alone")),
        note="The engine is judged by agreement with the label, the stabiliser by samples at no mode.",
        breaks=("guidance alone",),
    ),
    Claim(
        "tdm", "tdm", "arXiv 2503.06674", "One student serves one to four steps.",
        {
            "tdm": Arm("tdm", counts=(1, 2, 4)),
            "one step alone": Arm("tdm", {"inputs": 1}), "two steps alone": Arm("tdm", {"inputs": 2}, counts=(2,)),
        },
        (
            Check("tdm", "ratio@1", "one step alone", factor=1.25), Check("tdm", "ratio@2", "two steps alone", factor=1.25),
            Check("tdm", "ratio@4", "one step alone", factor=NO_WORSE, other_metric="ratio@1"),
        ),
        note="Against students of the same recipe that are trained for that number of steps alone.",
    ),
    Claim(
        "sid-few-step", "sid-few-step", "arXiv 2505.12674", "An unguided teacher and a critic without labels (Zero-CFG) trade alignment for diversity.",
        {
            "zero": Arm("sid-few-step", {"fake": 0.0, "conditional": False}, counts=(4,)),
            "guided": Arm("sid-few-step", {"real": 2.0, "same": True, "conditional": True}, counts=(4,)),
        },
        (Check("zero", "vendi@4", "guided", want="higher"), Check("zero", "agreement@4", "guided")),
        note="The other arm guides teacher and critic alike, at 2, as long and short guidance does.",
    ),
    Claim(
        "disback", "disback", "arXiv 2408.15991", "Walking the critic's way back converges in fewer steps than going to the teacher at once.",
        {"disback": Arm("disback", steps=2400), "at once": Arm("disback", {"targets": 0}, steps=2400)},
        (Check("disback", "area", "at once"), Check("disback", "ratio@1", "at once")),
        seconds=60.0,
        note="Both have 2400 steps, start and warm-up included: the way takes 750 of them, the warm-up of the other's critic 200. With 800 neither leaves the noise.",
    ),
    Claim(
        "msd-more", "msd", "arXiv 2410.23274", "Four students of the same size beat one.",
        {"four": Arm("msd", {"students": 4}, labelled=True), "one": Arm("dmd2", ALONE, labelled=True)},
        (Check("four", "ratio@1", "one"),),
        note="The seconds of the four count together.",
    ),
    Claim(
        "msd-smaller", "msd", "arXiv 2410.23274", "Four students of a quarter of the size beat one of that size.",
        {"four": Arm("msd", {"students": 4}, network=SMALL, labelled=True), "one": Arm("dmd2", ALONE, network=SMALL, labelled=True)},
        (Check("four", "ratio@1", "one"),),
        note="The seconds of the four count together.",
    ),
    Claim(
        "pg-sb", "pg-sb", "arXiv 2412.02687", "A guidance scale drawn at every step is stable across ranges of scales, where one fixed scale is not.",
        {
            "pg-sb, to 4": Arm("pg-sb", {"spread": (0.5, 4.0)}), "pg-sb, to 8": Arm("pg-sb", {"spread": (0.5, 8.0)}),
            "swiftbrush at 2": Arm("swiftbrush", {"real": 2.0}), "swiftbrush at 4": Arm("swiftbrush", {"real": 4.0}),
            "swiftbrush at 8": Arm("swiftbrush", {"real": 8.0}),
        },
        (
            Check("pg-sb, to 4", "off_mode@1", "swiftbrush at 4"), Check("pg-sb, to 8", "off_mode@1", "swiftbrush at 8"),
            Check("pg-sb, to 8", "ratio@1", "pg-sb, to 4", factor=1.25),
        ),
    ),
    Claim(
        "twinflow", "twinflow", "arXiv 2512.05150", "A network that is its own critic needs less memory at no worse quality.",
        {"twinflow": Arm("twinflow"), "dmd2": Arm("dmd2", ALONE)},
        (Check("twinflow", "state_mb", "dmd2"), Check("twinflow", "ratio@1", "dmd2", factor=NO_WORSE)),
        note="Memory is that of the checkpoint, with every network and optimiser: a process of points holds little else than its libraries.",
    ),
    Claim(
        "rcm", "rcm", "arXiv 2510.08431", "Score-regularised consistency is more diverse than DMD2 and sharper than continuous consistency.",
        {"rcm": Arm("rcm", teacher="grid25"), "dmd2": Arm("dmd2", ALONE, teacher="grid25"), "scm": Arm("scm", teacher="grid25")},
        (Check("rcm", "balance@1", "dmd2", want="higher"), Check("rcm", "off_mode@1", "scm")),
    ),
    Claim(
        "flash-dmd", "flash-dmd", "arXiv 2511.20549", "Flash-DMD reaches DMD2's quality with fewer student updates.",
        {
            "flash-dmd, 250 updates": Arm("flash-dmd", {"matched": 0.5}, counts=(4,), steps=1200),
            "dmd2, 1150 updates": Arm("dmd2", {"inputs": 4, "anchor": EachStep()}, counts=(4,), steps=3000),
        },
        (Check("flash-dmd, 250 updates", "ratio@4", "dmd2, 1150 updates", factor=NO_WORSE),),
        seconds=60.0,
        note="Both students first learn the teacher's estimates for 600 steps and have a critic for each step; its warm-up is 100 steps. Sixty seconds at most.",
    ),
    Claim(
        "flash-dmd-reward", "flash-dmd", "arXiv 2511.20549", "Going on with distillation keeps preference training from hacking its reward.",
        {
            "with distillation": Arm("flash-dmd", {"preference": "class", "preferences": 5}, counts=(4,)),
            "nearly without": Arm("flash-dmd", {"preference": "class", "preferences": 500}, counts=(4,)),
            "no reward": Arm("flash-dmd", counts=(4,)),
        },
        (Check("with distillation", "off_mode@4", "nearly without"), Check("with distillation", "agreement@4", "no reward", want="higher", factor=0.99)),
    ),
    Claim(
        "sfd", "sfd", "arXiv 2409.11219", "One class is forgotten, and the others are kept.",
        {
            "sfd": Arm("sfd", {"forget": FORGOTTEN}, teacher="digits/teacher"), "sid": Arm("sid", teacher="digits/teacher"),
        },
        (Check("sfd", "forget@1", limit=0.1), Check("sfd", "kept@1", "sid", want="higher", factor=0.95)),
        seconds=150.0,
    ),
)  # fmt: skip
