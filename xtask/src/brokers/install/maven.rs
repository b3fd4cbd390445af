//! Java programs, as the jars of a Maven artifact and of all that it needs.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Wanted, run, tool};
use crate::brokers::java;
use crate::brokers::launch::{Launch, Site};
use crate::failure::{Context, Result, fail};

/// The plugin that copies the jars. Without a version Maven takes whichever is the newest.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// The folder whose `libs` has the jars.
pub(super) fn find(
    wanted: &Wanted<'_>,
    artifact: &str,
    further: &[&str],
    rehearsal: fn(&Site<'_>) -> Result<Launch>,
    may_install: bool,
) -> Result<PathBuf> {
    tool("java", &format!("{} runs on a Java 17 or later", wanted.title))?;
    if !wanted.is_there() {
        let mvn = tool("mvn", &format!("{} comes as artifacts of Maven", wanted.title))?;
        let main = format!("{artifact}:{}", wanted.version);
        if !may_install {
            return wanted.refused(&format!("`mvn dependency:copy-dependencies` of {main}"));
        }
        wanted.install(|draft, log| {
            let pom = draft.join("pom.xml");
            let all: Vec<&str> = [main.as_str()].into_iter().chain(further.to_vec()).collect();
            fs::write(&pom, project(&all)).context(|| format!("writing {}", pom.display()))?;
            let mut command = Command::new(&mvn);
            command.args(["-q", "-B", COPY, "-DincludeScope=runtime", "-DoutputDirectory=libs"]);
            run(command.arg("-f").arg(&pom).current_dir(draft), log)?;
            if !draft.join("libs").is_dir() {
                return fail("Maven copied nothing");
            }
            java::rehearse(draft, log, rehearsal)
        })?;
    }
    Ok(wanted.folder.clone())
}

/// A project that is nothing but its dependencies.
fn project(artifacts: &[&str]) -> String {
    let mut dependencies = String::new();
    for artifact in artifacts {
        let mut parts = artifact.splitn(3, ':');
        let mut part = || parts.next().unwrap_or_default();
        let (group, name, version) = (part(), part(), part());
        // Writing to a string does not fail.
        let _written = writeln!(
            dependencies,
            "    <dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>\
             <version>{version}</version></dependency>"
        );
    }
    format!(
        "<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>posthaste</groupId>
  <artifactId>broker</artifactId>
  <version>0</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}  </dependencies>
</project>
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_names_group_artifact_and_version() {
        let text = project(&["org.example:server_2.13:4.2.0"]);
        assert!(text.contains("<groupId>org.example</groupId>"), "{text}");
        assert!(text.contains("<artifactId>server_2.13</artifactId>"), "{text}");
        assert!(text.contains("<version>4.2.0</version>"), "{text}");
    }
}
