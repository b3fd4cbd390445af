//! Kafka: the nodes we start, and how to tell that they are ready.
//!
//! Each node is broker and controller. Topics are created by the admin interface only, so that no
//! typing error makes one.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::launch::{Answer, Launch, Program, Site};
use super::probe::{Probed, Stream, Target};
use super::{install, java, secrets};
use crate::failure::{Context, Result, fail};

/// The user of the login by password.
const USER: &str = "posthaste";

/// What a node needs little of on a machine for development, and what is the same for all.
const SMALL: &str = "\
process.roles=broker,controller
controller.listener.names=CONTROLLER
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=2
background.threads=2
num.recovery.threads.per.data.dir=1
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.segment.bytes=16777216
log.cleaner.dedupe.buffer.size=2097152
log.index.size.max.bytes=1048576
";

/// Only what is wrong goes into the log.
const QUIET: &str = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn";

/// What makes three nodes notice each other's end soon.
const WATCHFUL: &str = "\
min.insync.replicas=2
replica.lag.time.max.ms=2000
broker.session.timeout.ms=6000
";

/// One node without TLS. No login is needed, and none is taken, except at the third port, which
/// takes no client without one. A rehearsal goes without that port.
///
/// Files: `password`.
pub(crate) fn open(site: &Site<'_>) -> Result<Launch> {
    let &[client, controller, ref further @ ..] = site.ports else {
        return fail("Kafka takes two ports, or three");
    };
    let (password, password_file) = secrets::password(site.state, "password")?;
    let login = format!(
        "sasl.enabled.mechanisms=PLAIN
listener.name.login.plain.sasl.jaas.config={}
",
        plain(&password)
    );
    let cluster = Cluster { site, controllers: &[controller], memory: "512m", further: &login };
    let listeners = Listeners { login: further.first().copied(), ..Listeners::plain(client) };
    let server = cluster.node(1, &listeners)?;
    cluster.format(&[1])?;
    let open = Launch::open(server, format!("kafka://127.0.0.1:{client}"));
    let files = [("password".to_owned(), password_file)].into();
    Ok(Launch { user: Some(USER.to_owned()), files, ..open })
}

/// Three nodes that hold three copies of everything; the first is the server of the record.
pub(crate) fn three(site: &Site<'_>) -> Result<Launch> {
    let &[a, b, c, x, y, z] = site.ports else { return fail("three nodes take six ports") };
    let cluster = Cluster { site, controllers: &[x, y, z], memory: "384m", further: WATCHFUL };
    let mut nodes = Vec::new();
    for (number, client) in [(2, b), (3, c), (1, a)] {
        nodes.push(cluster.node(number, &Listeners::plain(client))?.role(node_name(number)));
    }
    cluster.format(&[1, 2, 3])?;
    let Some(server) = nodes.pop() else { return fail("Kafka has no node") };
    let url = format!("kafka://127.0.0.1:{a},127.0.0.1:{b},127.0.0.1:{c}");
    Ok(Launch { others: nodes, ..Launch::open(server, url) })
}

/// One node with TLS by a CA of its own, and a login by `PLAIN` or `SCRAM-SHA-512`.
///
/// Files: `ca`, `foreign_ca`, `password`.
pub(crate) fn with_tls(site: &Site<'_>) -> Result<Launch> {
    let &[client, internal, controller] = site.ports else {
        return fail("Kafka with TLS takes three ports");
    };
    let tls = secrets::certificates(site.state)?;
    let (password, password_file) = secrets::password(site.state, "password")?;
    // Kafka wants key and certificate in one file.
    let read = |path: &Path| {
        std::fs::read_to_string(path).context(|| format!("reading {}", path.display()))
    };
    let identity = site.state.join("identity.pem");
    let pair = format!("{}{}", read(&tls.server_key)?, read(&tls.server_cert)?);
    secrets::write_private(&identity, &pair)?;
    let security = format!(
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.clients.plain.sasl.jaas.config={}
listener.name.clients.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
ssl.client.auth=none
",
        plain(&password),
        identity.display(),
        tls.ca.display(),
    );
    let cluster = Cluster { site, controllers: &[controller], memory: "512m", further: &security };
    let server =
        cluster.node(1, &Listeners { client, security: "SASL_SSL", internal, login: None })?;
    cluster.format_with(&[1], Some(&password))?;
    let url = format!("kafkas://127.0.0.1:{client}");
    Ok(Launch::open(server, url.clone()).secured(url, USER, tls, password_file))
}

/// Who may log in by `PLAIN`, as the configuration has it.
fn plain(password: &str) -> String {
    let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
    format!("{module} required user_{USER}=\"{password}\";")
}

/// Asks each node which requests it takes and, where that needs no login, which nodes it knows:
/// all must know all. The protocol does not tell the version.
pub(crate) fn probe(target: &Target<'_>, limit: Duration) -> Probed<Answer> {
    let addresses = target.addresses(9092)?;
    for address in &addresses {
        let Some(mut stream) = target.connect(address, limit)? else { continue };
        let wrong = |reason: String| format!("{address}: {reason}");
        let answer = ask(&mut stream, API_VERSIONS, &[]).map_err(wrong)?;
        if answer.get(..2) != Some(&[0, 0]) {
            return Err(wrong("refused to tell its versions".to_owned()));
        }
        if matches!(stream, Stream::Tls(_)) {
            continue;
        }
        // No topic: only the nodes.
        let answer = ask(&mut stream, METADATA, &0_i32.to_be_bytes()).map_err(wrong)?;
        let known = answer.first_chunk().map_or(0, |count| u32::from_be_bytes(*count));
        if (known as usize) < addresses.len() {
            return Err(wrong(format!("knows {known} of {} nodes", addresses.len())));
        }
    }
    Ok(Answer { version: None })
}

/// Kind and version of a request.
type Kind = (i16, i16);
const API_VERSIONS: Kind = (18, 0);
const METADATA: Kind = (3, 1);

/// Sends a request and gives what follows the header of its answer, of at most 1 MiB.
fn ask(stream: &mut Stream, (kind, version): Kind, body: &[u8]) -> Probed<Vec<u8>> {
    const CORRELATION: [u8; 4] = *b"post";
    let mut request = Vec::new();
    request.extend(kind.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(CORRELATION);
    // No client id.
    request.extend((-1_i16).to_be_bytes());
    request.extend(body);
    let length = u32::try_from(request.len()).map_err(|error| error.to_string())?;
    let lost = |error: std::io::Error| error.to_string();
    let packet = [&length.to_be_bytes(), &*request].concat();
    stream.write_all(&packet).map_err(lost)?;
    let (mut length, mut header) = ([0; 4], [0; 4]);
    stream.read_exact(&mut length).map_err(lost)?;
    stream.read_exact(&mut header).map_err(lost)?;
    let length = u64::from(u32::from_be_bytes(length));
    if header != CORRELATION || !(4..1 << 20).contains(&length) {
        return Err("does not speak Kafka".to_owned());
    }
    let mut answer = Vec::new();
    stream.take(length - 4).read_to_end(&mut answer).map_err(lost)?;
    Ok(answer)
}

/// Nodes that know each other.
struct Cluster<'a> {
    site: &'a Site<'a>,
    /// The port of each node's controller.
    controllers: &'a [u16],
    /// The heap of each node.
    memory: &'a str,
    /// Further lines of the configuration.
    further: &'a str,
}

/// Where a node listens to clients and to other nodes.
struct Listeners {
    client: u16,
    security: &'static str,
    internal: u16,
    /// Where clients need a login by `PLAIN`.
    login: Option<u16>,
}

impl Listeners {
    fn plain(client: u16) -> Self {
        Self { client, security: "PLAINTEXT", internal: client, login: None }
    }
}

impl Cluster<'_> {
    /// Writes the configuration of a node and says how to start it.
    fn node(&self, number: usize, at: &Listeners) -> Result<Program> {
        let Some(controller) = self.controllers.get(number - 1) else {
            return fail(format!("there is no node {number}"));
        };
        let voters: Vec<String> = (1..).zip(self.controllers).map(voter).collect();
        let copies = self.controllers.len();
        let enough = copies.div_ceil(2);
        let mut listeners = format!("CLIENTS://127.0.0.1:{}", at.client);
        let mut between = "CLIENTS";
        if at.internal != at.client {
            // Writing to a string does not fail.
            let _written = write!(listeners, ",NODES://127.0.0.1:{}", at.internal);
            between = "NODES";
        }
        if let Some(login) = at.login {
            let _written = write!(listeners, ",LOGIN://127.0.0.1:{login}");
        }
        let config = format!(
            "{SMALL}node.id={number}
controller.quorum.voters={}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
inter.broker.listener.name={between}
listener.security.protocol.map=\
CONTROLLER:PLAINTEXT,NODES:PLAINTEXT,LOGIN:SASL_PLAINTEXT,CLIENTS:{}
log.dirs={}
default.replication.factor={copies}
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={enough}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={enough}
{}",
            voters.join(","),
            at.security,
            self.data(number).display(),
            self.further,
        );
        let path = self.config(number);
        secrets::write_private(&path, &config)?;
        let memory = format!("-Xmx{}", self.memory);
        let mut args = java::args(self.site, &["-Xms128m", &memory, QUIET])?;
        args.extend(["kafka.Kafka".to_owned(), path.display().to_string()]);
        Ok(Program::new("java", args))
    }

    /// Prepares the data folders of these nodes, unless that was done at an earlier start.
    fn format(&self, numbers: &[usize]) -> Result<()> {
        self.format_with(numbers, None)
    }

    /// The same, and makes the user with a password known.
    fn format_with(&self, numbers: &[usize], password: Option<&str>) -> Result<()> {
        let (cluster, _) = secrets::text(self.site.state, "cluster-id", secrets::url_safe_id)?;
        let java_args = java::args(self.site, &["-Xmx128m", QUIET])?;
        let one = |number: usize| -> Result<()> {
            if self.data(number).join("meta.properties").exists() {
                return Ok(());
            }
            let mut command = Command::new("java");
            command.args(&java_args).current_dir(self.site.state);
            command.args(["kafka.tools.StorageTool", "format", "--ignore-formatted"]);
            command.args(["--cluster-id", &cluster, "--config"]).arg(self.config(number));
            if let Some(password) = password {
                let scram = format!("SCRAM-SHA-512=[name={USER},password={password}]");
                command.arg("--add-scram").arg(scram);
            }
            install::run(&mut command, self.site.log)
        };
        thread::scope(|scope| {
            let threads: Vec<_> =
                numbers.iter().map(|&number| scope.spawn(move || one(number))).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            // Each is joined, also after a failure.
            let ended: Vec<_> = ended.collect();
            ended.into_iter().try_for_each(|it| it.unwrap_or_else(|_| fail("formatting panicked")))
        })
    }

    fn config(&self, number: usize) -> std::path::PathBuf {
        self.site.state.join(format!("{}.properties", node_name(number)))
    }

    fn data(&self, number: usize) -> std::path::PathBuf {
        self.site.state.join(node_name(number))
    }
}

fn node_name(number: usize) -> String {
    format!("node{number}")
}

fn voter((number, port): (usize, &u16)) -> String {
    format!("{number}@127.0.0.1:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::probe::tests::serve_all;

    const LIMIT: Duration = Duration::from_secs(5);
    const VERSIONS: &[u8] = b"\0\0\0\x0apost\0\0\0\0\0\0";

    fn ask_one(answers: &'static [&'static [u8]]) -> Probed<Answer> {
        let url = format!("kafka://{}", serve_all(answers));
        probe(&Target::of_url(&url), LIMIT)
    }

    #[test]
    fn ready_is_a_node_that_knows_all_nodes() {
        assert_eq!(ask_one(&[VERSIONS, b"\0\0\0\x08post\0\0\0\x01"]), Ok(Answer { version: None }));
        let lonely = ask_one(&[VERSIONS, b"\0\0\0\x08post\0\0\0\0"]).unwrap_err();
        assert!(lonely.contains("0 of 1"), "{lonely}");
    }

    #[test]
    fn another_protocol_is_told_from_kafka() {
        let wrong = ask_one(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"]).unwrap_err();
        assert!(wrong.contains("does not speak Kafka"), "{wrong}");
    }
}
