//! `explain lr/NAME`: what kubectl's users type where a command would be.

use clap::Args;

use super::{Error, Output, node::NodeArgs, policy::PolicyArgs};
use crate::{
    cli::ExplainCommand,
    get::{Kind, Target},
    output::Page,
    text::near,
};

/// What can be explained by its type and name.
const COMMANDS: [&str; 3] = ["policy", "connection", "node"];

/// `TYPE/NAME`, or `TYPE NAME`.
#[derive(Clone, Debug, Default, Args)]
pub struct ShortArgs {
    /// What to explain: lr/NAME, bl/NAME, policy/NAME or node/NAME
    #[arg(value_name = "TYPE/NAME")]
    pub thing: Option<String>,
    /// Its name, where TYPE alone stands before it
    #[arg(value_name = "NAME", hide = true)]
    pub name: Option<String>,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

impl ShortArgs {
    /// The command that is meant, which may stand behind these; none where nothing is.
    ///
    /// # Errors
    /// There is no such type, or the name is missing.
    pub fn command(&self, behind: Option<ExplainCommand>) -> Result<Option<ExplainCommand>, Error> {
        let usage = |text: String| Err(Error::Usage(text));
        let thing = match (self.thing.as_deref(), behind) {
            (None, behind) => return Ok(behind.map(|command| self.with_output(command))),
            (Some(thing), Some(_)) => {
                return usage(format!("explain one thing: {thing}, or what stands behind it"));
            }
            (Some(thing), None) => thing,
        };
        let Ok(Target { kind, name }) = thing.parse::<Target>() else {
            // Whoever types a name that holds a command's does not mean the command.
            let alike = |command: &&&str| command.len().abs_diff(thing.len()) <= 2;
            return usage(match near(thing, COMMANDS).iter().find(alike) {
                Some(one) => format!("there is no {thing:?} to explain; did you mean {one}?"),
                None if thing.contains('/') => {
                    format!("nothing of type {thing:?} can be explained: name lr/NAME, bl/NAME or node/NAME")
                }
                None => format!(
                    "what is {thing:?}? A policy is explained by: kubectl balancing explain policy {thing}; a node by: kubectl \
                     balancing explain node {thing}"
                ),
            });
        };
        let name = match (name, &self.name) {
            (Some(name), None) => name,
            (None, Some(name)) => name.clone(),
            (Some(_), Some(more)) => return usage(format!("explain one thing: {thing} or {more}")),
            (None, None) => {
                return usage(format!("which one? as in: kubectl balancing explain {thing}/NAME"));
            }
        };
        Ok(Some(match kind {
            Kind::Policies(kind) => {
                let name = match kind {
                    // `explain lr lr/NAME` says it twice.
                    Some(kind) if !name.contains('/') => format!("{}/{name}", kind.short_name()),
                    _ => name,
                };
                ExplainCommand::Policy(PolicyArgs { name, output: self.output })
            }
            Kind::Nodes => ExplainCommand::Node(NodeArgs { name: Some(name), output: self.page() }),
            Kind::Frontends | Kind::Backends => {
                let dialled = if kind == Kind::Frontends { name } else { "ADDRESS:PORT".to_owned() };
                return usage(format!(
                    "{kind} are explained by a connection to them: kubectl balancing explain connection --to {dialled}"
                ));
            }
        }))
    }

    /// `-o` before the command is meant for it too.
    fn with_output(&self, mut command: ExplainCommand) -> ExplainCommand {
        match &mut command {
            _ if self.output == Output::Text => {}
            ExplainCommand::Policy(args) => args.output = self.output,
            ExplainCommand::Connection(args) => args.output = self.output,
            ExplainCommand::Node(args) => args.output = self.page(),
        }
        command
    }

    fn page(&self) -> Page {
        match self.output {
            Output::Text => Page::Text,
            Output::Json => Page::Json,
            Output::Yaml => Page::Yaml,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    /// What a line comes to: its command in a few words, or what it is answered with.
    fn said(line: &str) -> String {
        let command = match Cli::try_parse_from(line.split(' ')) {
            Ok(cli) => cli.command,
            Err(error) => return error.to_string(),
        };
        let Some(Command::Explain { short, what }) = command else { panic!("{command:?}") };
        match short.command(what) {
            Ok(None) => "help".to_owned(),
            Ok(Some(ExplainCommand::Policy(a))) => format!("policy {} {:?}", a.name, a.output),
            Ok(Some(ExplainCommand::Node(a))) => {
                format!("node {} {:?}", a.name.unwrap_or_default(), a.output)
            }
            Ok(Some(ExplainCommand::Connection(_))) => "connection".to_owned(),
            Err(error) => {
                assert!(error.is_usage());
                error.to_string()
            }
        }
    }

    #[test]
    fn the_short_form_is_the_long_one() {
        for (line, meant) in [
            ("x explain lr/a", "policy lr/a Text"),
            ("x explain lr a -o json", "policy lr/a Json"),
            ("x explain LocalRedirectPolicy/a", "policy lr/a Text"),
            ("x explain localredirectpolicy.balancing.elf.io/a -o yaml", "policy lr/a Yaml"),
            ("x explain bl/a --agent unix:/x", "policy bl/a Text"),
            ("x explain policy/a", "policy a Text"),
            ("x explain policies a", "policy a Text"),
            ("x explain policy lr/a", "policy lr/a Text"),
            ("x explain -o json policy a", "policy a Json"),
            ("x explain --agent unix:/x -o yaml node n1", "node n1 Yaml"),
            ("x explain --agent unix:/x connection --to 10.0.0.1:53", "connection"),
            ("x explain node/n1 -o json", "node n1 Json"),
            ("x explain nodes n1", "node n1 Text"),
            ("x explain connection --to 10.0.0.1:53", "connection"),
            ("x describe lr/a", "policy lr/a Text"),
            ("x explain", "help"),
        ] {
            assert_eq!(said(line), meant, "{line}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (line, words) in [
            ("x explain polcy", "did you mean policy?"),
            ("x explain pod/x", "name lr/NAME, bl/NAME or node/NAME"),
            ("x explain node-local-dns", "kubectl balancing explain policy node-local-dns;"),
            ("x explain lr", "kubectl balancing explain lr/NAME"),
            ("x explain lr/a b", "explain one thing"),
            ("x explain fe/10.0.0.1:53", "explain connection --to 10.0.0.1:53"),
        ] {
            assert!(said(line).contains(words), "{line}: {}", said(line));
        }
    }
}
