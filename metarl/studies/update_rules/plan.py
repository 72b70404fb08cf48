"""Update rules: how the inner step is taken, under the same outer updates and on the same tasks."""

from __future__ import annotations

from collections.abc import Mapping

from metarl.report import palette
from metarl.studies.methods.design import Design, MethodPlan, TaskPlan
from metarl.studies.update_rules.words import WORDS

STEPS = 10  # adaptation steps in evaluation, more than any run is trained for
POINT = {"adapt_episodes": 40, "adapt_env_steps": 4000, "score_episodes": 40}  # takes a third as long as training
TASKS: Mapping[str, TaskPlan] = {
    **{
        f"point_{steps}_step{'s' if steps > 1 else ''}": TaskPlan(
            5,
            10_000_000,
            40,
            {"every": every, **POINT},  # once in the middle, and at the end
            family="point",
            overrides={"agent.num_adapt_steps": steps},
        )
        for steps, every in ((1, 40), (3, 20))
    },
    "half_cheetah_vel": TaskPlan(
        3, 16_000_000, 100, {"every": 50, "adapt_episodes": 20, "adapt_env_steps": None, "score_episodes": 20}
    ),
}
LSTM = {"agent.update_rule": "meta_lstm"}
METHODS: Mapping[str, MethodPlan] = {
    "maml_trpo": MethodPlan(
        "maml_trpo", "gradient steps of a fixed size, differentiated (Finn et al. 2017)", look=(palette.VERMILION, "o")
    ),
    "fomaml": MethodPlan(
        "maml_trpo", "the same without second derivatives", {"agent.first_order": True}, look=(palette.ORANGE, "^")
    ),
    "meta_sgd": MethodPlan(
        "maml_trpo",
        "MAML-TRPO that learns a step size per parameter (Li et al. 2017, arXiv:1707.09835)",
        {"agent.learn_inner_lr": "per_parameter"},
        look=(palette.PINK, "P"),
    ),
    "meta_sgd_first_order": MethodPlan(
        "maml_trpo",
        "the same without second derivatives",
        {"agent.learn_inner_lr": "per_parameter", "agent.first_order": True},
        look=(palette.WINE, "."),
    ),
    "promp": MethodPlan("promp", "Rothfuss et al. 2019, arXiv:1810.06784", look=(palette.BLUE, "s")),
    "meta_lstm": MethodPlan(
        "promp",
        "an LSTM takes the inner steps (Ravi & Larochelle 2017), ProMP's outer update",
        LSTM,
        look=(palette.BLACK, "*"),
    ),
    "meta_lstm_pinned": MethodPlan(
        "promp",
        "the same with a forget gate of 1: no parameter is ever scaled down",
        {**LSTM, "agent.rule_forget": "pinned"},
        look=(palette.GREEN, "D"),
    ),
    "meta_lstm_frozen": MethodPlan(
        "promp",
        "the same with the rule as it began: nearly gradient steps of a fixed size, in first order",
        {**LSTM, "agent.rule_lr": 0.0},
        look=(palette.SKY_BLUE, "v"),
    ),
    "meta_lstm_trpo": MethodPlan(
        "maml_trpo", "Meta-LSTM, rule and policy in one trust region", LSTM, look=(palette.OLIVE, "X")
    ),
    **{
        f"sgd_{rate:g}": MethodPlan(
            "promp",
            f"ProMP's outer update in first order, gradient steps of {rate:g}",
            {"agent.first_order": True, "agent.inner_lr": rate},
            look=(palette.GREY, marker),
        )
        for rate, marker in ((0.1, "1"), (0.25, "2"), (0.5, "3"), (1.0, "4"), (2.0, "+"))
    },
}
DESIGN = Design("update_rules", TASKS, METHODS, "maml_trpo", STEPS, points=(0, 1, 2, 3, 5, 10), words=WORDS)
add_arguments, make_plan = DESIGN.add_arguments, DESIGN.plan
