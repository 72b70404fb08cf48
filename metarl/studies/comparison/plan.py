"""The controlled comparison: its methods and task families."""

from __future__ import annotations

from collections.abc import Mapping

from metarl.report import palette
from metarl.studies.comparison.words import WORDS
from metarl.studies.methods.design import Design, MethodPlan, TaskPlan

HALF_CHEETAH = {"every": 20, "adapt_episodes": 20, "adapt_env_steps": None, "score_episodes": 20}
TASKS: Mapping[str, TaskPlan] = {
    "point": TaskPlan(
        5, 10_000_000, 40, {"every": 10, "adapt_episodes": 40, "adapt_env_steps": 4000, "score_episodes": 40}
    ),
    "half_cheetah_dir": TaskPlan(3, 16_000_000, 100, HALF_CHEETAH),
    "half_cheetah_vel": TaskPlan(3, 16_000_000, 100, HALF_CHEETAH),
}
METHODS: Mapping[str, MethodPlan] = {
    "random_init": MethodPlan(
        "random_init",
        "parameters as they are drawn; the steps of its one iteration teach it nothing",
        {"iterations": 1, "env_steps": None},
        look=(palette.GREY, "x"),
        learns=False,
    ),
    "pretraining": MethodPlan(
        "pretraining",
        "one policy for all tasks, by TRPO; adaptation only in evaluation",
        {"eval.every": 40},  # its iterations have one phase
        look=(palette.SKY_BLUE, "v"),
    ),
    "reptile": MethodPlan(
        "reptile",
        "moves towards where adaptation ends (Nichol et al. 2018, arXiv:1803.02999)",
        look=(palette.GREEN, "D"),
        schedule="agent.meta_lr_iterations",
    ),
    "fomaml": MethodPlan(
        "maml_trpo",
        "MAML-TRPO without second derivatives (Finn et al. 2017, arXiv:1703.03400)",
        {"agent.first_order": True},
        look=(palette.ORANGE, "^"),
    ),
    "maml_trpo": MethodPlan("maml_trpo", "Finn et al. 2017, arXiv:1703.03400", look=(palette.VERMILION, "o")),
    "promp": MethodPlan("promp", "Rothfuss et al. 2019, arXiv:1810.06784", look=(palette.BLUE, "s")),
    "rl2": MethodPlan(
        "rl2_ppo",
        "RL², a GRU that adapts inside its trial of two episodes (Duan et al. 2016, arXiv:1611.02779)",
        tasks=("half_cheetah_dir", "half_cheetah_vel"),
        look=(palette.BLACK, "*"),
        test_size={"agent.memory_size": 8, "agent.minibatches": 1},
    ),
    "maml_lvc": MethodPlan(
        "maml_trpo",
        "MAML-TRPO with ProMP's estimator of the meta-gradient, the low-variance curvature",
        {"agent.inner_loss": "ratio"},
        tasks=("half_cheetah_dir",),
        look=(palette.PINK, "P"),
    ),
    "maml_subsampled": MethodPlan(
        "maml_trpo",
        "MAML-TRPO whose Fisher products take a tenth of the steps",
        {"agent.fisher_fraction": 0.1},
        tasks=("half_cheetah_dir",),
        look=(palette.WINE, "."),
    ),
}
DESIGN = Design("comparison", TASKS, METHODS, baseline="maml_trpo", steps=3, points=(0, 1, 2, 3), words=WORDS)
add_arguments, make_plan = DESIGN.add_arguments, DESIGN.plan
