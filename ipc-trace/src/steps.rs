//! Counts the steps of scans in tests: growth faster than linear is found without a clock.

/// Counts a step of a scan.
#[inline(always)]
pub(crate) fn step() {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts the steps of `run`.
#[cfg(test)]
pub(crate) fn count_steps(run: impl FnOnce()) -> u64 {
    let before = STEPS.with(std::cell::Cell::get);
    run();
    STEPS.with(std::cell::Cell::get) - before
}

/// Asserts that twice the input takes about twice the steps.
#[cfg(test)]
pub(crate) fn assert_linear(size: usize, run: impl Fn(usize)) {
    let [once, twice] = [size, 2 * size].map(|size| count_steps(|| run(size)));
    assert!(twice <= 2 * once + once / 2 + 1_000, "{size}: {once} steps; {}: {twice}", 2 * size);
    assert!(once <= 64 * size as u64 + 1_000, "{size}: {once} steps");
}
