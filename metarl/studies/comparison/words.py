"""What the page of the controlled comparison says beside its numbers."""

from metarl.studies.methods.words import Words

WORDS = Words(
    introduction="""\
# Controlled comparison

What is meta-learning worth, and which kind? Each method below trains on the same task families until it has taken the
same number of environment steps, then adapts to the same held-out tasks: by gradient steps on equally many episodes,
or, `rl2`, by what its memory keeps of the episodes so far.
`metarl reproduce comparison` runs all of it, one run after another, or side by side with `--jobs N`; stopped at any
moment, the same command goes on. With `--report-only` it writes this page from the runs that are finished.
""",
    reading="""\
**Reading the tables.** Return of fresh episodes on held-out tasks after 0 to 3 adaptation steps: interquartile mean
over all seeds and tasks, with a 95 % percentile bootstrap interval for which tasks are drawn anew within every seed
({resamples} resamples; Agarwal et al. 2021, [arXiv:2108.13264](https://arxiv.org/abs/2108.13264)). `half_cheetah_dir`
has two tasks only, and a run meets each in many trials. There it is the mean of the two tasks' own interquartile means
over seeds and trials, for which trials are drawn anew within every seed and task: over both tasks at once it would
leave out most of one that a method fails at. It still leaves out the worst and the best quarter of a task's trials.
*Seeds*: lowest and highest of the seeds' own figures after the last step; the interval is for these seeds and does not
contain their spread. Final parameters, none picked. Environment steps are those of training, and time is that of
sampling and learning; evaluation counts in neither. Both are means over seeds.
""",
    paired="""\
**Reading the differences.** All methods meet the same held-out tasks, seed by seed. The second table of a task family
is of each method's return minus that of `{baseline}` on the same seed and task: the plain mean of these differences,
in which every trial counts and every task of `half_cheetah_dir` the same, and its interval from the same bootstrap.
Above 0 the method is better. Beside it stands the plain mean of the method itself, which trials that go badly pull down
where the interquartile mean leaves them out. *Seeds* is of the last difference; *runs* is how many seeds both have.
""",
    caveats="""\
## Caveats

- Each method runs with the settings of its configuration. They were not tuned with equal effort: a row is one point in
  a method's space of settings, not the best that it can do.
- A run ends with the first iteration that reaches the budget, so steps differ by up to one iteration.
- Held-out tasks are drawn per seed and are the same for all methods. That intervals of two methods overlap does
  therefore not mean that there is no difference: the paired differences tell. Of many 95 % intervals some miss.
- Seeds are few, and all intervals are for these. Where the seeds' own differences lie on both sides of 0, other seeds
  may turn the order round.
- Wall-clock times are of one machine; whatever else ran on it makes them longer.
""",
)
