//! ElasticMQ, which speaks SQS: the configuration we start it with, and how to tell that it is
//! ready.

use std::io::{Read, Write};
use std::time::Duration;

use super::launch::{Answer, Launch, Program, Site};
use super::probe::{self, Probed, Target};
use super::{java, secrets};
use crate::failure::{Result, fail};

/// ElasticMQ with queues and messages on disk, so that both outlive its process.
pub(crate) fn open(site: &Site<'_>) -> Result<Launch> {
    let &[port, ..] = site.ports else { return fail("ElasticMQ takes one port") };
    // Queues are kept with the messages. Without a delay of 0 the last half second is in memory.
    let config = format!(
        "include classpath(\"application.conf\")
node-address {{ protocol = http, host = \"127.0.0.1\", port = {port}, context-path = \"\" }}
rest-sqs {{
  enabled = true
  bind-port = {port}
  bind-hostname = \"127.0.0.1\"
  sqs-limits = strict
}}
rest-stats {{ enabled = false }}
messages-storage {{
  enabled = true
  uri = \"jdbc:h2:{}/messages;WRITE_DELAY=0\"
}}
",
        site.state.display(),
    );
    let path = site.state.join("server.conf");
    secrets::write_private(&path, &config)?;
    let configured = format!("-Dconfig.file={}", path.display());
    let mut args = java::args(site, &["-Xmx256m", &configured])?;
    args.push("org.elasticmq.server.Main".to_owned());
    let server = Program::new("java", args);
    Ok(Launch::open(server, format!("sqs://elasticmq/?endpoint=http://127.0.0.1:{port}")))
}

/// Asks for the list of queues. No answer tells the version.
pub(crate) fn probe(target: &Target<'_>, limit: Duration) -> Probed<Answer> {
    let address = endpoint(target.url)?;
    let list = "X-Amz-Target: AmazonSQS.ListQueues\r\nContent-Type: application/x-amz-json-1.0";
    let answer = post(&address, list, "{}", limit)?;
    if answer.contains("QueueUrls") || answer.ends_with("{}") {
        return Ok(Answer { version: None });
    }
    Err(format!("{address} answered ListQueues with {}", probe::first_line(&answer)))
}

/// `host:port` of the parameter `endpoint` of a URL.
pub(crate) fn endpoint(url: &str) -> Probed<String> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let endpoint = query.split('&').find_map(|pair| pair.strip_prefix("endpoint="));
    match endpoint {
        Some(endpoint) => Target::of_url(endpoint).address(80),
        None => Err("the URL has no endpoint=http://host:port".to_owned()),
    }
}

/// Sends a request over HTTP and gives all of its answer, of at most 64 KiB.
pub(crate) fn post(address: &str, headers: &str, body: &str, limit: Duration) -> Probed<String> {
    let silent = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = probe::connect(address, limit)?;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, \
         SignedHeaders=host, Signature=0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(silent)?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer).map_err(silent)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_a_parameter_of_the_url() {
        let url = "sqs://elasticmq/?wait=20s&endpoint=http://127.0.0.1:9324";
        assert_eq!(endpoint(url).as_deref(), Ok("127.0.0.1:9324"));
        assert!(endpoint("sqs://eu-west-1/").unwrap_err().contains("endpoint="));
    }
}
