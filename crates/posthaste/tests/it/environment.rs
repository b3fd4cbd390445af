//! `from_env` in processes of their own, whose environment no other test shares.

use std::process::Command;

/// What `from_env` makes of the environment that this process was started in. A parent reads the
/// line that it prints; run by itself, it checks the environment of the whole test run.
#[tokio::test]
async fn child() {
    let line = match posthaste::from_env().await {
        Ok(bus) => format!("connected to {}", bus.capabilities(None).expect("no topic").broker),
        Err(error) => format!("{}: {error}", error.kind()),
    };
    println!("child: {line}");
    if std::env::var_os("POSTHASTE_URL").is_none() {
        assert!(line.starts_with("invalid: ") && line.contains("POSTHASTE_URL is not set"));
    }
}

fn child_with(url: Option<&str>) -> String {
    let program = std::env::current_exe().expect("the test binary");
    let mut command = Command::new(program);
    command.args(["--exact", "environment::child", "--nocapture"]).env_remove("POSTHASTE_URL");
    if let Some(url) = url {
        command.env("POSTHASTE_URL", url);
    }
    let output = command.output().expect("the test binary runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}");
    let line = printed.split_once("child: ").map(|(_, rest)| rest.lines().next().unwrap_or(rest));
    line.unwrap_or_else(|| panic!("the child printed nothing: {printed}")).to_owned()
}

#[test]
fn the_variable_names_the_broker() {
    assert_eq!(child_with(Some("memory://tests")), "connected to memory");
}

#[test]
fn an_unset_or_empty_variable_is_invalid_and_named() {
    assert!(child_with(None).contains("POSTHASTE_URL is not set"));
    assert!(child_with(Some("")).contains("POSTHASTE_URL is empty"));
}

#[test]
fn a_wrong_url_says_where_it_came_from_and_shows_no_secret() {
    let line = child_with(Some("carrierpigeon://user:hunter2@localhost"));
    assert!(line.starts_with("invalid: ") && line.contains("URL from: POSTHASTE_URL"), "{line}");
    assert!(!line.contains("hunter2"), "{line}");
}
