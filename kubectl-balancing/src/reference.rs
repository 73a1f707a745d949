//! The page `docs/reference/plugin-commands.md`, made of the command line itself and of the columns of the tables.

use std::{fmt::Write as _, path::PathBuf};

use balancing_api::cli::{BackendTopItem, FrontendTopItem, NodeTopItem, PolicyTopItem, ProblemItem};
use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::{
    cli::Cli,
    columns::{Row, Shown},
};

const PAGE: &str = "docs/reference/plugin-commands.md";

/// The whole page.
fn page() -> String {
    let mut root = Cli::command();
    root.build();
    let mut out = String::from(
        "# Commands of the plugin\n\nEvery command and flag of `kubectl balancing`, from the program itself. What formats, \
         exit statuses and streams have in common: [plugin](plugin.md).\n\n## Every command\n\n",
    );
    arguments(&mut out, &root, true);
    for sub in root.get_subcommands().filter(|c| c.get_name() != "help") {
        command(&mut out, sub);
    }
    out.push_str("## Columns\n\nOf `top` and `get`: what `--sort-by`, `--filter` and csv call them. Rates are not in `get`.\n\n");
    columns::<PolicyTopItem>(&mut out, "policies");
    columns::<NodeTopItem>(&mut out, "nodes");
    columns::<FrontendTopItem>(&mut out, "frontends");
    columns::<BackendTopItem>(&mut out, "backends");
    columns::<ProblemItem>(&mut out, "problems");
    out.truncate(out.trim_end().len());
    out + "\n"
}

fn command(out: &mut String, command: &Command) {
    let subcommands: Vec<&Command> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
    if subcommands.is_empty() {
        let name = command.get_bin_name().unwrap_or(command.get_name());
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
        let usage = command.clone().render_usage().to_string();
        let _ = write!(out, "## `{name}`\n\n{}.\n\n", about.unwrap_or_default().trim_end_matches('.'));
        let _ = write!(out, "    {}\n\n", usage.trim_start_matches("Usage: "));
        arguments(out, command, false);
        if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
            let _ = write!(out, "```\n{}\n```\n\n", after.to_string().trim_end());
        }
    }
    for sub in subcommands {
        self::command(out, sub);
    }
}

/// The arguments that are a command's own, or those that all commands have.
fn arguments(out: &mut String, command: &Command, global: bool) {
    let own = |a: &&Arg| a.is_global_set() == global && !a.is_hide_set();
    let built_in = |a: &&Arg| !["help", "version"].contains(&a.get_id().as_str());
    let all: Vec<&Arg> = command.get_arguments().filter(own).filter(built_in).collect();
    if all.is_empty() {
        return;
    }
    out.push_str("| argument | |\n|---|---|\n");
    for arg in all {
        let _ = writeln!(out, "| `{}` | {} |", cell(&written(arg)), cell(&said(arg)));
    }
    out.push('\n');
}

/// `-o, --output FORMAT`
fn written(arg: &Arg) -> String {
    let values =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>();
    let values = values.join(" ");
    if arg.is_positional() {
        let many = if matches!(arg.get_action(), ArgAction::Append) { "..." } else { "" };
        return if arg.is_required_set() { format!("{values}{many}") } else { format!("[{values}]{many}") };
    }
    let short = arg.get_short().map(|s| format!("-{s}"));
    let long = arg.get_long().map(|l| format!("--{l}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let value = if takes_value(arg) { format!(" {values}") } else { String::new() };
    names.join(", ") + &value
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && arg.get_num_args().is_none_or(|n| n.max_values() > 0)
}

/// Its help, its choices and its default.
fn said(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut said = help.split("\n\n").collect::<Vec<_>>().join(" ").replace('\n', " ");
    if takes_value(arg) {
        let choices: Vec<String> = arg
            .get_possible_values()
            .iter()
            .filter(|v| !v.is_hide_set())
            .map(|v| match v.get_help() {
                Some(help) => format!("`{}` ({})", v.get_name(), help.to_string().trim_end_matches('.')),
                None => format!("`{}`", v.get_name()),
            })
            .collect();
        if !choices.is_empty() {
            let _ = write!(said, ": {}", choices.join(", "));
            said = said.replacen(".:", ":", 1);
        }
        let defaults: Vec<String> =
            arg.get_default_values().iter().map(|d| d.to_string_lossy().into_owned()).collect();
        if let Some(default) = defaults.first().filter(|d| !d.is_empty()) {
            sentence(&mut said, &format!("Default: `{default}`"));
        }
        if let Some(variable) = arg.get_env() {
            sentence(&mut said, &format!("Variable: `{}`", variable.to_string_lossy()));
        }
    }
    said
}

fn sentence(text: &mut String, next: &str) {
    text.push_str(if text.ends_with(['.', ']']) { " " } else { ". " });
    text.push_str(next);
}

fn columns<R: Row>(out: &mut String, what: &str) {
    let _ = write!(out, "### {what}\n\n| column | key | shown | |\n|---|---|---|---|\n");
    for column in R::columns() {
        let meta = &column.meta;
        let shown = match meta.shown {
            Shown::Always => "always",
            Shown::Wide => "wide",
            Shown::Live => "live view",
            Shown::Cluster => "`get` of a cluster",
        };
        let _ = writeln!(out, "| {} | `{}` | {shown} | {} |", cell(meta.header), meta.key, cell(meta.help));
    }
    out.push('\n');
}

/// Text in a table of Markdown: what stands in back ticks as it is, the rest without tags.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for (i, part) in text.replace('|', "\\|").split('`').enumerate() {
        if i > 0 {
            out.push('`');
        }
        out.push_str(&if i % 2 == 0 {
            part.replace('<', "&lt;").replace('*', "\\*")
        } else {
            part.to_owned()
        });
    }
    out
}

#[test]
fn the_page_of_commands_is_that_of_the_program() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, page()).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        written,
        page(),
        "{PAGE} is stale: UPDATE_DOCS=1 cargo test -p kubectl-balancing page_of_commands"
    );
}
