"""The compiled core: arrays are checked for shape and dtype, results are written into arrays that are given."""

import numpy as np

instructions: str

class Chains:
    def __init__(
        self,
        initial: np.ndarray,
        initial_of: np.ndarray,
        transition: np.ndarray,
        transition_of: np.ndarray,
        log_emission: np.ndarray,
        begins: np.ndarray,
        lengths: np.ndarray,
        threads: int,
    ) -> None: ...

class Observed:
    def __init__(
        self,
        form: int,
        values: np.ndarray,
        centre: np.ndarray,
        natural: np.ndarray,
        initial: np.ndarray,
        transition: np.ndarray,
        begins: np.ndarray,
        lengths: np.ndarray,
        threads: int,
    ) -> None: ...

def evidence(chains: Chains, total: np.ndarray) -> None: ...
def posterior(
    chains: Chains,
    weights: np.ndarray,
    by_chain: bool,
    total: np.ndarray,
    marginals: np.ndarray,
    initial_slopes: np.ndarray,
    slopes: np.ndarray,
) -> None: ...
def observed_evidence(chains: Observed, total: np.ndarray) -> bool: ...
def expected(
    chains: Observed,
    weights: np.ndarray,
    total: np.ndarray,
    initial_slopes: np.ndarray,
    slopes: np.ndarray,
    sums: np.ndarray,
) -> bool: ...
def filter(chains: Chains, states: np.ndarray, steps: np.ndarray, total: np.ndarray) -> None: ...
def smooth(
    chains: Chains,
    states: np.ndarray,
    steps: np.ndarray,
    total: np.ndarray,
    probs: np.ndarray,
    log_ahead: np.ndarray,
) -> None: ...
def paths(chains: Chains, paths: np.ndarray) -> None: ...
def draws(chains: Chains, states: np.ndarray, uniforms: np.ndarray, paths: np.ndarray) -> None: ...
def normal_scores(points: np.ndarray, loc: np.ndarray, root: np.ndarray, threads: int, scores: np.ndarray) -> None: ...
def normal_sums(
    points: np.ndarray, loc: np.ndarray, root: np.ndarray, weights: np.ndarray, threads: int, sums: np.ndarray
) -> None: ...
def bernoulli_rows(
    logits: np.ndarray, values: np.ndarray, threads: int, scores: np.ndarray, slopes: np.ndarray
) -> None: ...
def gelu(x: np.ndarray, threads: int, values: np.ndarray, slopes: np.ndarray) -> None: ...
def nearest(at: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> None: ...
def lloyd(at: np.ndarray, weights: np.ndarray, centres: np.ndarray, steps: int) -> None: ...
def seeds(at: np.ndarray, weights: np.ndarray, uniforms: np.ndarray, chosen: np.ndarray) -> None: ...
def seed_words(*numbers: int) -> tuple[int, int]: ...
def exponentials(x: np.ndarray) -> None: ...
def mixture_expected(
    form: int,
    values: np.ndarray,
    centre: np.ndarray,
    weights: np.ndarray,
    natural: np.ndarray,
    objective: np.ndarray,
    sums: np.ndarray,
    threads: int,
) -> None: ...
def normal_expected(
    values: np.ndarray,
    weights: np.ndarray,
    centre: np.ndarray,
    shares: np.ndarray,
    loc: np.ndarray,
    spread: np.ndarray,
    shared: np.ndarray,
    reach: float,
    widest: float,
    objective: np.ndarray,
    sums: np.ndarray,
    threads: int,
) -> tuple[bool, float]: ...
def normal_natural(loc: np.ndarray, spread: np.ndarray, centre: np.ndarray, natural: np.ndarray) -> float: ...
def normal_maximum_of_sums(
    sums: np.ndarray,
    centre: np.ndarray,
    least: np.ndarray,
    loc: np.ndarray,
    spread: np.ndarray,
    low: np.ndarray,
) -> None: ...
def normal_maximum(
    weight: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    centre: np.ndarray,
    least: np.ndarray,
    loc: np.ndarray,
    spread: np.ndarray,
    low: np.ndarray,
) -> None: ...
