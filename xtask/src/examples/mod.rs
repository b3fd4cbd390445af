//! `cargo xtask examples`: runs every example and compares what it prints.
//!
//! The examples are the `[[example]]` targets of the package in `examples/`; what each must print
//! is in `examples/expected/<name>.txt`, for all brokers alike (see [`expected`] for its masks).
//! An example learns its broker from `POSTHASTE_URL`. It runs on the in-process broker, and on a
//! NATS server that is started fresh for it, so that no run sees the messages of another.

mod expected;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::args::ExamplesOptions;
use crate::brokers::{self, Entry, Registry};
use crate::failure::{Context, Result, fail};
use crate::interrupt::Interrupt;
use crate::{test, workspace};

/// The URL of the in-process broker.
const MEMORY: &str = "memory://";
/// The network broker that the examples run on.
const NETWORK: &str = "nats";
/// How long one example may take on one broker.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does `examples …`. Fails when an example failed, printed something else, or could not be run
/// on a required broker.
pub(crate) fn run(options: &ExamplesOptions) -> Result<ExitCode> {
    let package = Package::find(&workspace::metadata()?)?;
    let names = package.chosen(&options.names)?;
    let interrupt = Interrupt::install()?;
    build(&package, &interrupt)?;

    let mut failures: Vec<String> = Vec::new();
    let (mut ran, mut missing) = (Vec::new(), false);
    let mut check = |name: &str, broker: &str, url: &str| -> Result<()> {
        let outcome = package.check(name, broker, url, &interrupt)?;
        match outcome {
            None => println!("example {name} on {broker} ... ok"),
            Some(wrong) => {
                println!("example {name} on {broker} ... FAILED\n{wrong}");
                failures.push(format!("{name} on {broker}"));
            }
        }
        if interrupt.came() { fail("interrupted") } else { Ok(()) }
    };

    if let Some(url) = &options.url {
        for name in &names {
            check(name, "the given URL", url)?;
        }
        ran.push("the given URL");
    } else {
        for name in &names {
            check(name, "memory", MEMORY)?;
        }
        ran.push("memory");
        let network = brokers::find(NETWORK)?;
        let may_install = options.install || workspace::is_ci();
        for name in &names {
            match Fresh::start(network, may_install) {
                Ok(fresh) => check(name, NETWORK, &fresh.url)?,
                Err(reason) => {
                    println!("examples NOT RUN on {NETWORK}: {reason}");
                    if test::required()?.iter().any(|required| required == NETWORK) {
                        failures.push(format!("{NETWORK} is required"));
                    }
                    missing = true;
                    break;
                }
            }
        }
        if !missing {
            ran.push(NETWORK);
        }
    }
    if failures.is_empty() {
        println!("{} examples printed what they should on: {}", names.len(), ran.join(", "));
        return Ok(ExitCode::SUCCESS);
    }
    fail(format!("examples failed: {}", failures.join(", ")))
}

/// A broker for one example; stopped, and its data deleted, when dropped.
struct Fresh {
    label: String,
    url: String,
}

impl Fresh {
    fn start(entry: &Entry, may_install: bool) -> Result<Self> {
        let label = format!("examples-{}", entry.id);
        let record = Registry::open()?.fresh(entry, &label, may_install)?;
        Ok(Self { label, url: record.url })
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let stopped = Registry::open().and_then(|registry| registry.down(&self.label, false));
        if let Err(failure) = stopped {
            eprintln!("stopping {}: {failure}", self.label);
        }
    }
}

/// The package of the examples.
struct Package {
    name: String,
    folder: PathBuf,
    /// Its example targets, sorted.
    examples: Vec<String>,
}

impl Package {
    fn find(metadata: &Value) -> Result<Self> {
        let folder = workspace::root().join("examples");
        let manifest = folder.join("Cargo.toml");
        let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let package = packages.iter().find(|package| {
            package["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest)
        });
        let Some(package) = package else {
            return fail("the workspace has no package in examples/");
        };
        let targets = package["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut examples: Vec<String> = targets
            .iter()
            .filter(|target| target["kind"][0] == "example")
            .filter_map(|target| Some(target["name"].as_str()?.to_owned()))
            .collect();
        examples.sort();
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        Ok(Self { name, folder, examples })
    }

    /// The examples to run. An expected output of no example is an error.
    fn chosen(&self, names: &[String]) -> Result<Vec<String>> {
        for name in names {
            if !self.examples.contains(name) {
                return fail(format!("there is no example `{name}`"));
            }
        }
        if !names.is_empty() {
            return Ok(names.to_vec());
        }
        let folder = self.folder.join("expected");
        let files = fs::read_dir(&folder).context(|| format!("reading {}", folder.display()))?;
        for file in files.flatten() {
            let file = PathBuf::from(file.file_name());
            let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            if !name.is_some_and(|name| self.examples.contains(&name)) {
                return fail(format!("examples/expected/{}: of no example", file.display()));
            }
        }
        if self.examples.is_empty() {
            return fail("the package in examples/ has no example");
        }
        Ok(self.examples.clone())
    }

    /// Runs one example; says what is wrong with it.
    fn check(
        &self,
        name: &str,
        broker: &str,
        url: &str,
        interrupt: &Interrupt,
    ) -> Result<Option<String>> {
        let path = self.folder.join("expected").join(format!("{name}.txt"));
        let Ok(wanted) = fs::read_to_string(&path) else {
            return Ok(Some(format!("what it must print is not in {}", path.display())));
        };
        let folder = workspace::root().join("target").join("examples-output");
        fs::create_dir_all(&folder).context(|| format!("making {}", folder.display()))?;
        let output = folder.join(format!("{name}.txt"));
        let file = File::create(&output).context(|| format!("making {}", output.display()))?;
        let mut command = workspace::cargo();
        command
            .args(["run", "--quiet", "--all-features", "--package", &self.name])
            .args(["--example", name])
            .env("POSTHASTE_URL", url)
            .stdout(file);
        let ended = interrupt.within(&mut command, PATIENCE)?;
        let printed = fs::read(&output).context(|| format!("reading {}", output.display()))?;
        let printed = String::from_utf8_lossy(&printed);
        let difference = expected::difference(&wanted, &printed);
        let ending = match ended {
            Some(true) => None,
            Some(false) => Some("it ended with an error".to_owned()),
            None => Some(format!("it did not end within {} s on {broker}", PATIENCE.as_secs())),
        };
        let wrong: Vec<String> = ending.into_iter().chain(difference).collect();
        Ok((!wrong.is_empty()).then(|| wrong.join("\n")))
    }
}

/// Builds all examples first, so that no compilation counts as running time.
fn build(package: &Package, interrupt: &Interrupt) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["build", "--all-features", "--examples", "--package", &package.name]);
    if interrupt.status(&mut command)? { Ok(()) } else { fail("the examples do not build") }
}
