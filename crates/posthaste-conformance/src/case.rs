//! One case: which promise it proves, where it applies, what it needs, and what it does.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use posthaste_core::{Capabilities, Promise};

use crate::failure::Outcome;
use crate::feature::Feature;
use crate::harness::Need;
use crate::scene::Scene;

/// What a case does, for one [`Scene`].
pub type Run = for<'a> fn(&'a Scene) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// What a case is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The promise as it reads.
    Claim,
    /// The promise at its limits: late, early, twice, empty, together with others.
    Edge,
    /// The promise while something breaks.
    Fault,
    /// The refusal: runs exactly where the feature is refused.
    Denial(Feature),
}

/// One case of the suite.
#[derive(Clone)]
pub struct Case {
    promise: Promise,
    name: &'static str,
    kind: Kind,
    applies: fn(&Capabilities) -> bool,
    needs: &'static [Need],
    deadline: Duration,
    run: Run,
}

impl Case {
    pub(crate) const fn new(promise: Promise, name: &'static str, kind: Kind, run: Run) -> Self {
        // A case waits for conditions; only one that hangs meets its deadline.
        let deadline = Duration::from_secs(match kind {
            Kind::Fault => 90,
            _ => 60,
        });
        Self { promise, name, kind, applies: |_| true, needs: &[], deadline, run }
    }

    /// Runs it only where this holds.
    pub(crate) const fn when(mut self, applies: fn(&Capabilities) -> bool) -> Self {
        self.applies = applies;
        self
    }

    /// Runs it only where the harness offers all of this.
    pub(crate) const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// The promise it proves.
    #[must_use]
    pub const fn promise(&self) -> Promise {
        self.promise
    }

    /// Its name, unique within its promise.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its full name, for example `p9::acks_out_of_order_lose_nothing`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("p{}::{}", self.promise.number(), self.name)
    }

    /// What it is there for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether a broker that can do this has to pass it.
    #[must_use]
    pub fn applies(&self, capabilities: &Capabilities) -> bool {
        let refused = match self.kind {
            Kind::Denial(feature) => feature.is_refused(capabilities),
            Kind::Claim | Kind::Edge | Kind::Fault => true,
        };
        refused && (self.applies)(capabilities)
    }

    /// What it needs of a harness. Where that is not offered the case cannot run.
    #[must_use]
    pub const fn needed(&self) -> &'static [Need] {
        self.needs
    }

    /// Whether it runs on an instance of its own.
    #[must_use]
    pub fn is_disturbing(&self) -> bool {
        self.needs.iter().any(|need| need.disturbs())
    }

    /// The end of a run that hangs.
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// What it does.
    #[must_use]
    pub const fn run(&self) -> Run {
        self.run
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("path", &self.path())
            .field("kind", &self.kind)
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

/// The cases of a file: `cases![P9; Claim acks_lose_nothing, Fault a_cut_loses_nothing needs
/// [Need::Cut], ...]`, each the name of an async function of the scene.
macro_rules! cases {
    ($promise:ident; $($kind:ident $(($feature:ident))? $name:ident
        $(when $applies:expr)? $(, needs [$($need:ident),+])?;)+) => {
        pub(super) fn cases() -> Vec<$crate::case::Case> {
            vec![$(
                $crate::case::Case::new(
                    posthaste_core::Promise::$promise,
                    stringify!($name),
                    $crate::case::Kind::$kind $(($crate::feature::Feature::$feature))?,
                    |scene| Box::pin($name(scene)),
                )
                $(.when($applies))?
                $(.needs(&[$($crate::harness::Need::$need),+]))?
            ),+]
        }
    };
}
pub(crate) use cases;
