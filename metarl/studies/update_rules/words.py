"""What the page of the study of update rules says beside its numbers."""

from metarl.studies.methods.words import Words

WORDS = Words(
    introduction="""\
# Update rules

Does an inner step that is learned beat a gradient step, and is it the LSTM that does it? Below it stands beside
gradient steps whose size is fixed, chosen from a grid, or learned parameter by parameter, in first and in second order,
and beside itself with the rule frozen as it began. All train until they have taken the same number of environment
steps, with one or three inner steps, and are then tested with up to ten.
`metarl reproduce update_rules` runs all of it, one run after another; stopped at any moment, the same command goes on.
With `--report-only` it writes this page from the runs that are finished.
""",
    reading="""\
**Reading the tables.** Return of fresh episodes on held-out tasks after so many adaptation steps: interquartile mean
over all seeds and tasks, with a 95 % percentile bootstrap interval for which tasks are drawn anew within every seed
({resamples} resamples; Agarwal et al. 2021, [arXiv:2108.13264](https://arxiv.org/abs/2108.13264)).
*Seeds*: lowest and highest of the seeds' own figures after the last step; the interval is for these seeds and does not
contain their spread. Final parameters, none picked. Steps behind those of training are taken as the last of these, and
tell whether a rule goes on to help or leads astray. Environment steps are those of training, and time is that of
sampling and learning; evaluation counts in neither. Both are means over seeds.
""",
    paired="""\
**Reading the differences.** All methods meet the same held-out tasks, seed by seed. The second table of a task family
is of each method's return minus that of `{baseline}` on the same seed and task: the plain mean of these differences,
and its interval from the same bootstrap. Above 0 the method is better. *Seeds* is of the last difference; *runs* is how
many seeds both have.
""",
    caveats="""\
## Caveats

- The rows `sgd_…` are a grid. Its best is picked after the fact, which flatters gradient steps, not the rule.
- Rule and policy have the step sizes of the paper and of ProMP. Adam moves the rule by at most 10⁻³ in a step, and the
  budget is a few hundred steps: a rule that learns for longer may come further.
- No gradient goes through the inner gradient: `meta_lstm` is a first-order method, to be held against `sgd_…`,
  `fomaml` and `meta_sgd_first_order` before all others.
- A run ends with the first iteration that reaches the budget, so steps differ by up to one iteration.
- Seeds are few, and all intervals are for these. Of many 95 % intervals some miss.
- Wall-clock times are of one machine; whatever else ran on it makes them longer.
""",
)
