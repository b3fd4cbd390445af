//! fauxqs, which speaks SNS and SQS: how we start it, and how to tell that it is ready.
//!
//! All that it holds is in memory, and ends with its process.

use std::fs;
use std::time::Duration;

use super::launch::{Answer, Launch, Program, Site};
use super::probe::{self, Probed, Target};
use super::sqs::{endpoint, post};
use crate::failure::{Context, Result, fail};

/// Its own command listens at every address of the machine; this does at loopback only.
const SERVE: &str = "\
import { pathToFileURL } from 'node:url';
const [library, port] = process.argv.slice(2);
const { buildApp } = await import(pathToFileURL(library));
const app = await buildApp({ logger: false });
await app.listen({ port: Number(port), host: '127.0.0.1' });
";

/// SNS and SQS at one port.
pub(crate) fn open(site: &Site<'_>) -> Result<Launch> {
    let &[port] = site.ports else { return fail("fauxqs takes one port") };
    let serve = site.state.join("serve.mjs");
    fs::write(&serve, SERVE).context(|| format!("writing {}", serve.display()))?;
    let library = site.installed.join("node_modules/fauxqs/dist/app.js");
    let args = [serve.display().to_string(), library.display().to_string(), port.to_string()];
    let server = Program::new("node", args);
    Ok(Launch::open(server, format!("sqs://us-east-1/?endpoint=http://127.0.0.1:{port}")))
}

/// Asks for the list of topics. No answer tells the version.
pub(crate) fn probe(target: &Target<'_>, limit: Duration) -> Probed<Answer> {
    let address = endpoint(target.url)?;
    let form = "Content-Type: application/x-www-form-urlencoded";
    let answer = post(&address, form, "Action=ListTopics&Version=2010-03-31", limit)?;
    if answer.contains("ListTopicsResult") {
        return Ok(Answer { version: None });
    }
    Err(format!("{address} answered ListTopics with {}", probe::first_line(&answer)))
}
