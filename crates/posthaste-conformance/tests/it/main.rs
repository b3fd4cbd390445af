//! The integration tests of the suite's own tools.
//!
//! One binary with its own `main`, because it is three programs: the tests, the children they
//! start in a role, and the server they start, kill and start again.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests, in functions that clippy does not know for tests"
)]

mod child;
mod echo;
mod proxy;
mod proxy_holes;
mod server;
mod upstream;
mod waiting;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed};
use posthaste_conformance::fault;

/// Long enough for anything here on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// How long nothing may happen before it counts as nothing. A slow machine makes such a test
/// weaker, never fail.
const QUIET: Duration = Duration::from_millis(300);
/// The end of a test that hangs.
const LIMIT: Duration = Duration::from_secs(60);

type TestResult = Result<(), Failed>;

fn main() -> ExitCode {
    if let Ok(addr) = std::env::var(echo::ADDR) {
        return echo::serve(&addr);
    }
    if let Some(role) = fault::role() {
        return child::play(&role);
    }
    let arguments = Arguments::from_args();
    let modules = [
        proxy::trials(),
        proxy_holes::trials(),
        server::trials(),
        child::trials(),
        waiting::trials(),
    ];
    libtest_mimic::run(&arguments, modules.into_iter().flatten().collect()).exit_code()
}

/// Runs one test on a runtime of its own.
fn run(test: impl Future<Output = TestResult>) -> TestResult {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, test).await })
        .unwrap_or_else(|_| Err("the test hangs".into()))
}

/// `trials![module; a, b]`: the list of a module's tests.
macro_rules! trials {
    ($module:literal; $($test:ident),+ $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$(
                libtest_mimic::Trial::test(
                    concat!($module, "::", stringify!($test)),
                    || crate::run($test()),
                )
            ),+]
        }
    };
}
use trials;
