//! What every example needs and none is about: the broker it runs on, and names that are new.
#![expect(clippy::print_stdout, reason = "an example says which broker it runs on")]

use posthaste::{Bus, Error, Result, Timestamp};

/// The broker's URL: of `--url URL`, else of the environment's `POSTHASTE_URL`, else a new one in
/// this process.
///
/// # Errors
/// `Invalid` for other arguments.
pub fn url() -> Result<String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [option, url] if option == "--url" => Ok(url.clone()),
        [] => Ok(std::env::var("POSTHASTE_URL").unwrap_or_else(|_| "memory://".to_owned())),
        _ => Err(Error::invalid("the only argument is `--url URL`, the broker's")),
    }
}

/// Connects to the broker of [`url`], and prints which one it is.
///
/// # Errors
/// Those of [`url`] and of `posthaste::connect`.
///
/// # Cancel safety
/// Cancel safe.
pub async fn connect() -> Result<Bus> {
    let bus = posthaste::connect(&url()?).await?;
    let broker = bus.capabilities(None)?;
    match (broker.broker, &broker.server) {
        ("memory", _) => {
            println!("broker     memory, in this process; --url or POSTHASTE_URL names another");
        }
        (name, Some(version)) => println!("broker     {name} {version}"),
        (name, None) => println!("broker     {name}"),
    }
    Ok(bus)
}

/// The name with a suffix that no earlier run has used, so that examples can share a server.
#[must_use]
pub fn fresh(name: &str) -> String {
    format!("{name}-{}-{}", Timestamp::now().as_micros(), std::process::id())
}
