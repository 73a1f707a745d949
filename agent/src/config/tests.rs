use std::{
    collections::BTreeMap,
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;

const MOUNTINFO: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
43 31 0:38 /some/scope /mnt/part rw,relatime shared:7 - cgroup2 cgroup2 rw
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw
42 23 0:39 / /sys/fs/bpf rw,relatime - bpf bpf rw
";

/// The command of arguments, variables and, as `/etc/balancing.yaml`, a configuration file.
fn parse_with(args: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Command, ConfigError> {
    let environment: Environment = variables.iter().map(|(k, v)| ((*k).to_owned(), v.into())).collect();
    let read = |path: &Path| {
        if path == Path::new("/etc/balancing.yaml") {
            Ok(file.to_owned())
        } else {
            Err(io::Error::from(io::ErrorKind::NotFound))
        }
    };
    let args = std::iter::once("balancing-agent").chain(args.iter().copied());
    parse(args, &environment, read, MOUNTINFO)
}

fn run(args: &[&str], variables: &[(&str, &str)], file: &str) -> Result<RunConfig, ConfigError> {
    let mut all = vec!["run"];
    all.extend(args);
    match parse_with(&all, variables, file)? {
        Command::Run(run) => Ok(*run),
        Command::Cleanup(_) => panic!("cleanup of {all:?}"),
    }
}

/// A run with what it needs at least, and the given arguments.
fn good(args: &[&str]) -> Result<RunConfig, ConfigError> {
    let mut all = vec!["--node-name=n1", "--manifests=/m"];
    all.extend(args);
    run(&all, &[], "")
}

fn message<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> (u8, String) {
    let error = result.unwrap_err();
    (error.exit_code(), error.to_string())
}

#[test]
fn defaults() {
    assert_eq!(
        good(&[]).unwrap(),
        RunConfig {
            node_name: "n1".to_owned(),
            source: Source::Manifests("/m".into()),
            places: Places { cgroup_root: "/sys/fs/cgroup/uni fied".into(), bpffs: "/sys/fs/bpf".into() },
            api: vec![Listen::Unix("/run/balancing/agent.sock".into())],
            default_redirects_per_second: 0,
            service_resolution: ServiceResolution::All,
            policy_lease: Some(Duration::from_secs(60)),
            max_frontends: 65_536,
            max_backends: 131_072,
            api_server: None,
            namespace: "elf".to_owned(),
            daemonset: None,
            node_status: true,
            operator_token: "/var/run/secrets/balancing.elf.io/token".into(),
            refuse_root_cgroup: false,
            log: LogConfig { format: LogFormat::Text, level: "info".to_owned() },
        }
    );
}

#[test]
fn every_flag() {
    let run = good(&[
        "--cgroup-root=/c",
        "--bpffs=/b",
        "--api=unix:/a.sock",
        "--api",
        "tcp:[::1]:5810",
        "--redirect-qos-limit=100",
        "--service-resolution=policies",
        "--policy-lease=1m30s",
        "--max-frontends=10",
        "--max-backends=20",
        "--api-server-host=[fd00::1]",
        "--api-server-port=6443",
        "--namespace=lb",
        "--daemonset=lb-agent",
        "--node-status=false",
        "--log-format=json",
        "--log-level=debug,h2=warn",
    ])
    .unwrap();
    assert_eq!(run.places, Places { cgroup_root: "/c".into(), bpffs: "/b".into() });
    assert_eq!(run.api, [Listen::Unix("/a.sock".into()), Listen::Tcp("::1".to_owned(), 5810)]);
    assert_eq!(run.default_redirects_per_second, 100);
    assert_eq!(run.service_resolution, ServiceResolution::Policies);
    assert_eq!(run.policy_lease, Some(Duration::from_secs(90)));
    assert_eq!((run.max_frontends, run.max_backends), (10, 20));
    assert_eq!(run.api_server, Some(("fd00::1".to_owned(), 6443)));
    assert_eq!((&*run.namespace, run.daemonset.as_deref(), run.node_status), ("lb", Some("lb-agent"), false));
    assert_eq!(run.log, LogConfig { format: LogFormat::Json, level: "debug,h2=warn".to_owned() });
}

#[test]
fn every_setting_comes_from_its_variable_and_its_key_too() {
    // Each with a value that is not the default.
    let values = [
        ("NODE_NAME", "nodeName", "n2"),
        ("MANIFESTS", "manifests", "/m"),
        ("CGROUP_ROOT", "cgroupRoot", "/c"),
        ("BPFFS", "bpffs", "/b"),
        ("API", "api", "tcp:localhost:1"),
        ("REDIRECT_QOS_LIMIT", "redirectQosLimit", "7"),
        ("SERVICE_RESOLUTION", "serviceResolution", "off"),
        ("POLICY_LEASE", "policyLease", "0"),
        ("MAX_FRONTENDS", "maxFrontends", "8"),
        ("MAX_BACKENDS", "maxBackends", "9"),
        ("API_SERVER_HOST", "apiServerHost", "k8s.example"),
        ("API_SERVER_PORT", "apiServerPort", "443"),
        ("NAMESPACE", "namespace", "lb"),
        ("DAEMONSET", "daemonset", "lb-agent"),
        ("NODE_STATUS", "nodeStatus", "false"),
        ("OPERATOR_TOKEN", "operatorToken", "/t"),
        ("LOG_FORMAT", "logFormat", "json"),
        ("LOG_LEVEL", "logLevel", "warn"),
    ];
    let wanted = RunConfig {
        node_name: "n2".to_owned(),
        source: Source::Manifests("/m".into()),
        places: Places { cgroup_root: "/c".into(), bpffs: "/b".into() },
        api: vec![Listen::Tcp("localhost".to_owned(), 1)],
        default_redirects_per_second: 7,
        service_resolution: ServiceResolution::Off,
        policy_lease: None,
        max_frontends: 8,
        max_backends: 9,
        api_server: Some(("k8s.example".to_owned(), 443)),
        namespace: "lb".to_owned(),
        daemonset: Some("lb-agent".to_owned()),
        node_status: false,
        operator_token: "/t".into(),
        refuse_root_cgroup: true,
        log: LogConfig { format: LogFormat::Json, level: "warn".to_owned() },
    };
    let mut variables: BTreeMap<String, OsString> =
        values.iter().map(|(v, _, value)| (format!("BALANCING_{v}"), value.into())).collect();
    variables.insert("BALANCING_REFUSE_ROOT_CGROUP".to_owned(), "1".into());
    let by_variable = parse(["x", "run"], &variables, |_| Ok(String::new()), MOUNTINFO).unwrap();
    assert_eq!(by_variable, Command::Run(Box::new(wanted.clone())));

    let file: String = values.iter().map(|(_, key, value)| format!("{key}: {value}\n")).collect();
    let by_file = run(&["--config=/etc/balancing.yaml"], &[("BALANCING_REFUSE_ROOT_CGROUP", "1")], &file);
    assert_eq!(by_file.unwrap(), wanted);
    let by_named_file = run(
        &[],
        &[("BALANCING_REFUSE_ROOT_CGROUP", "true"), ("BALANCING_CONFIG", "/etc/balancing.yaml")],
        &file,
    );
    assert_eq!(by_named_file.unwrap(), wanted);
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
    let limit = |args: &[&str], variables: &[(&str, &str)], file: &str| {
        let mut all = vec!["--node-name=n1", "--manifests=/m", "--config=/etc/balancing.yaml"];
        all.extend(args);
        run(&all, variables, file).unwrap().default_redirects_per_second
    };
    let (own, second, file) =
        (("BALANCING_REDIRECT_QOS_LIMIT", "2"), ("REDIRECT_QOS_LIMIT", "3"), "redirectQosLimit: 4");
    assert_eq!(limit(&["--redirect-qos-limit=1"], &[own, second], file), 1);
    assert_eq!(limit(&[], &[own, second], file), 2);
    assert_eq!(limit(&[], &[second], file), 3);
    assert_eq!(limit(&[], &[], file), 4);
    assert_eq!(limit(&[], &[], ""), 0);
    assert_eq!(limit(&[], &[("REDIRECT_QOS_LIMIT", "")], file), 4, "an empty variable is not set");
}

#[test]
fn the_documented_variables_have_no_prefix() {
    let run = run(&["--manifests=/m"], &[("NODE_NAME", "n3"), ("RUST_LOG", "trace")], "").unwrap();
    assert_eq!((run.node_name.as_str(), run.log.level.as_str()), ("n3", "trace"));
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        message(run(&["--manifests=/m"], &[], "")),
        (2, "the node's name is missing: give --node-name, or set NODE_NAME".to_owned())
    );
    let (code, text) = message(run(&["--node-name=n1"], &[], ""));
    assert_eq!(code, 2);
    assert!(text.contains("--manifests DIR"), "{text}");
    assert_eq!(
        message(good(&["--api-server-host=h"])),
        (2, "--api-server-host needs --api-server-port beside it".to_owned())
    );
    let (code, text) = message(parse(
        ["x", "run", "--node-name=n", "--manifests=/m"],
        &Environment::new(),
        |_| Ok(String::new()),
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw",
    ));
    assert_eq!(code, 1);
    assert!(text.starts_with("no cgroup v2 hierarchy is mounted here"), "{text}");
}

#[test]
fn sources_exclude_one_another() {
    assert_eq!(
        message(good(&["--in-cluster"])),
        (2, "--manifests and --in-cluster exclude each other: the objects come from one source".to_owned())
    );
    assert_eq!(message(good(&["--kubeconfig=/k"])).0, 2);
    let (code, text) = message(run(
        &["--node-name=n1"],
        &[("BALANCING_MANIFESTS", "/m"), ("BALANCING_KUBECONFIG", "/k")],
        "",
    ));
    assert_eq!(code, 2);
    assert!(text.starts_with("variable BALANCING_MANIFESTS and variable BALANCING_KUBECONFIG"), "{text}");
}

#[test]
fn a_layer_that_names_a_source_hides_the_layers_below() {
    let source = |args: &[&str], variables: &[(&str, &str)], file: &str| {
        let mut all = vec!["--node-name=n1", "--config=/etc/balancing.yaml"];
        all.extend(args);
        run(&all, variables, file).map(|r| r.source)
    };
    let folder = Source::Manifests("/m".into());
    assert_eq!(
        source(&["--manifests=/m"], &[("BALANCING_KUBECONFIG", "/k")], "inCluster: true").unwrap(),
        folder
    );
    assert_eq!(source(&["--manifests=/m"], &[("KUBECONFIG", "/k")], "").unwrap(), folder);
    assert_eq!(source(&[], &[("KUBECONFIG", "/k")], "manifests: /m").unwrap(), folder);
    assert_eq!(source(&["--in-cluster=false"], &[], "manifests: /m").unwrap(), folder);
    let kubeconfig = |path: &str| Source::Kubeconfig(path.into());
    assert_eq!(source(&[], &[("KUBECONFIG", "/k")], "kubeconfig: /other").unwrap(), kubeconfig("/k"));
    assert_eq!(source(&[], &[("KUBECONFIG", "/k")], "").unwrap(), kubeconfig("/k"));
    assert_eq!(source(&[], &[], "\nkubeconfig: /other").unwrap(), kubeconfig("/other"));
    assert_eq!(source(&["--in-cluster"], &[("KUBECONFIG", "/k")], "").unwrap(), Source::InCluster);
}

#[test]
fn the_namespace_is_that_of_the_pod() {
    let namespace = |variables: &[(&str, &str)]| {
        run(&["--node-name=n1", "--in-cluster"], variables, "").unwrap().namespace
    };
    assert_eq!(namespace(&[("POD_NAMESPACE", "lb")]), "lb");
    assert_eq!(namespace(&[("POD_NAMESPACE", "lb"), ("BALANCING_NAMESPACE", "other")]), "other");
    let (code, text) = message(run(&["--node-name=n1", "--in-cluster", "--namespace=a.b"], &[], ""));
    assert_eq!(code, 2);
    assert!(text.starts_with("--namespace: invalid value \"a.b\""), "{text}");
}

#[test]
fn invalid_values_say_where_they_were_written() {
    let invalid = |variable: (&str, &str)| {
        let (code, text) = message(run(&["--node-name=n1", "--manifests=/m"], &[variable], ""));
        assert_eq!(code, 2);
        text
    };
    assert_eq!(
        invalid(("BALANCING_POLICY_LEASE", "60")),
        "variable BALANCING_POLICY_LEASE: invalid value \"60\": \"60\" has no unit: expected a duration such as 60s, \
         1m30s or 0"
    );
    assert_eq!(
        invalid(("REDIRECT_QOS_LIMIT", "-1")),
        "variable REDIRECT_QOS_LIMIT: invalid value \"-1\": expected a whole number from 0 (no limit) to 4294967295"
    );
    assert!(
        invalid(("BALANCING_REFUSE_ROOT_CGROUP", "yes"))
            .starts_with("variable BALANCING_REFUSE_ROOT_CGROUP: ")
    );
    assert!(invalid(("RUST_LOG", "balancing=loud")).starts_with("variable RUST_LOG: invalid value"));
    // A lone word that is no level would be a target, and everything else would be silent.
    for silent in ["loud", "info,loud", "h2=warn,inof"] {
        let text = invalid(("BALANCING_LOG_LEVEL", silent));
        assert!(text.contains("is no level; expected a level (error,"), "{silent}: {text}");
    }
    let environment: Environment = [("NODE_NAME".to_owned(), OsString::from_vec(vec![0xff]))].into();
    let (code, text) =
        message(parse(["x", "run", "--manifests=/m"], &environment, |_| Ok(String::new()), MOUNTINFO));
    assert_eq!((code, text.as_str()), (2, "variable NODE_NAME: invalid value \"\u{fffd}\": not UTF-8"));
    for (flag, start) in [
        ("--max-frontends=0", "--max-frontends: invalid value \"0\": expected a whole number from 1 to"),
        ("--max-backends=1e3", "--max-backends: invalid value \"1e3\""),
        (
            "--service-resolution=some",
            "--service-resolution: invalid value \"some\": expected all, policies or off",
        ),
        ("--policy-lease=2s", "--policy-lease: invalid value \"2s\": the lease is renewed once a second"),
        ("--policy-lease=2000000h", "--policy-lease: invalid value \"2000000h\": longer than a year"),
        ("--policy-lease=99999999999999999999h", "--policy-lease: invalid value"),
        ("--policy-lease=5d", "--policy-lease: invalid value \"5d\": unknown unit \"d\""),
        ("--log-format=xml", "--log-format: invalid value \"xml\": expected json or text"),
        ("--api=http://x", "--api: invalid value \"http://x\": expected unix:PATH or tcp:HOST:PORT"),
        ("--api=unix:", "--api: invalid value \"unix:\": the path is missing"),
        ("--api=tcp:::1:80", "--api: invalid value \"tcp:::1:80\": write an IPv6 address in brackets"),
        ("--api=tcp:[x]:80", "--api: invalid value \"tcp:[x]:80\": \"x\" is no IPv6 address"),
        ("--api=tcp:h:99999", "--api: invalid value \"tcp:h:99999\": \"99999\" is no port"),
        ("--api=tcp::80", "--api: invalid value \"tcp::80\": the host is missing"),
        ("--bpffs=", "--bpffs: invalid value \"\": the path is empty"),
    ] {
        let (code, text) = message(good(&[flag]));
        assert_eq!(code, 2, "{flag}");
        assert!(text.starts_with(start), "{flag}: {text}");
    }
    let (_, negative) = message(good(&["--redirect-qos-limit", "-1"]));
    assert!(negative.starts_with("--redirect-qos-limit: invalid value \"-1\""), "{negative}");
    let long = format!("--api=unix:/{}", "x".repeat(107));
    assert!(message(good(&[&long])).1.ends_with("the path has 108 bytes, and a unix socket's may have 107"));
    let (_, twice) = message(good(&["--api=unix:/a", "--api=unix:/a"]));
    assert_eq!(twice, "--api: invalid value \"unix:/a\": given twice");
    for name in ["", "N1", "-n", "n..1", "n 1", &"x.".repeat(127)] {
        let args = ["--manifests=/m", "--node-name", name];
        assert_eq!(message(run(&args, &[], "")).0, 2, "{name:?}");
    }
}

#[test]
fn a_variable_lists_addresses_behind_commas_and_the_file_as_a_list() {
    let wanted = [Listen::Unix("/a".into()), Listen::Tcp("h".to_owned(), 1)];
    let args = ["--node-name=n1", "--manifests=/m", "--config=/etc/balancing.yaml"];
    let by_variable = run(&args, &[("BALANCING_API", "unix:/a, tcp:h:1")], "");
    assert_eq!(by_variable.unwrap().api, wanted);
    let by_file = run(&args, &[], "api:\n- unix:/a\n- tcp:h:1\n");
    assert_eq!(by_file.unwrap().api, wanted);
    for listen in wanted.iter().chain(&[Listen::Tcp("::1".to_owned(), 2)]) {
        assert_eq!(&listen.to_string().parse::<Listen>().unwrap(), listen);
    }
}

#[test]
fn mistakes_in_the_file_have_a_line() {
    let file = |text: &str| {
        message(run(&["--node-name=n1", "--manifests=/m", "--config=/etc/balancing.yaml"], &[], text))
    };
    let line = |text: &str| {
        let (code, message) = file(text);
        assert_eq!(code, 2, "{message}");
        message.strip_prefix("/etc/balancing.yaml:").unwrap_or_else(|| panic!("{message}")).to_owned()
    };
    assert_eq!(line("# x\nbpffs: /b\nqosLimit: 3\n"), "3: unknown key \"qosLimit\"");
    assert_eq!(line("policy-lease: 3s"), "1: unknown key \"policy-lease\", did you mean \"policyLease\"?");
    assert_eq!(line("config: /x"), "1: unknown key \"config\"");
    assert_eq!(
        line("\nredirectQosLimit: many"),
        "2: redirectQosLimit: invalid value \"many\": expected a whole number from 0 (no limit) to 4294967295"
    );
    assert_eq!(line("bpffs: /a\nbpffs: /b"), "2: bpffs is set twice, first on line 1");
    assert_eq!(line("bpffs:\nlogLevel: info"), "1: bpffs has no value");
    assert_eq!(line("bpffs: [/a]"), "1: bpffs: expected a single value");
    assert_eq!(line("api: {unix: /a}"), "1: api: expected a text or a list of texts");
    assert_eq!(line("api: []"), "1: api has no value");
    assert_eq!(line("- a"), "1: expected a mapping of settings, such as `nodeName: n1`");
    assert_eq!(line("bpffs: /a\n---\nbpffs: /b"), "3: a second document: one is expected");
    assert!(line("bpffs: \"/a").starts_with("1: not YAML: "), "{}", line("bpffs: \"/a"));
    assert_eq!(
        message(run(&["--config=/nowhere.yaml"], &[], "")),
        (1, "failed to read the configuration file /nowhere.yaml".to_owned())
    );
}

#[test]
fn an_empty_file_sets_nothing() {
    for text in ["", "# nothing\n", "---\n", "{}", "null\n"] {
        let run = run(&["--node-name=n1", "--manifests=/m", "--config=/etc/balancing.yaml"], &[], text);
        assert_eq!(run.unwrap(), good(&[]).unwrap(), "{text:?}");
    }
}

#[test]
fn cleanup_needs_only_its_places() {
    let cleanup = |args: &[&str], variables: &[(&str, &str)], file: &str| {
        let mut all = vec!["cleanup"];
        all.extend(args);
        match parse_with(&all, variables, file).unwrap() {
            Command::Cleanup(cleanup) => cleanup.places,
            Command::Run(_) => panic!("run"),
        }
    };
    let default = Places { cgroup_root: "/sys/fs/cgroup/uni fied".into(), bpffs: "/sys/fs/bpf".into() };
    assert_eq!(cleanup(&[], &[], ""), default);
    let given = Places { cgroup_root: "/c".into(), bpffs: "/b".into() };
    assert_eq!(cleanup(&["--cgroup-root=/c"], &[("BALANCING_BPFFS", "/b")], ""), given);
    let of_run = "nodeName: n1\nmanifests: /m\nbpffs: /b\ncgroupRoot: /c\n";
    assert_eq!(
        cleanup(&["--config=/etc/balancing.yaml"], &[], of_run),
        given,
        "run's file serves cleanup too"
    );
    assert_eq!(message(parse_with(&["cleanup", "--node-name=n1"], &[], "")).0, 2);
}

#[test]
fn wrong_usage_and_help_have_their_exit_status() {
    assert_eq!(message(parse_with(&["run", "--no-such-flag"], &[], "")).0, 2);
    assert_eq!(message(parse_with(&[], &[], "")).0, 2);
    assert_eq!(message(parse_with(&["walk"], &[], "")).0, 2);
    assert_eq!(message(parse_with(&["run", "--help"], &[], "")).0, 0);
    assert_eq!(message(parse_with(&["--version"], &[], "")).0, 0);
}

#[test]
fn mounts_of_cgroup_v2() {
    assert_eq!(
        cgroup2_mounts(MOUNTINFO),
        [
            Cgroup2Mount { point: "/mnt/part".into(), root: "/some/scope".into() },
            Cgroup2Mount { point: "/sys/fs/cgroup/uni fied".into(), root: "/".into() },
        ]
    );
    let part = "43 31 0:38 /some/scope /mnt/part rw - cgroup2 cgroup2 rw\ngarbage\n1 2 3 - cgroup2";
    let run = parse(
        ["x", "run", "--node-name=n", "--manifests=/m"],
        &Environment::new(),
        |_| Ok(String::new()),
        part,
    );
    match run.unwrap() {
        Command::Run(run) => assert_eq!(run.places.cgroup_root, PathBuf::from("/mnt/part")),
        Command::Cleanup(_) => panic!("cleanup"),
    }
    assert_eq!(
        cgroup2_mounts("1 2 3:4 / /a\\134b\\01\\777 rw - cgroup2 x rw")[0].point,
        Path::new("/a\\b\\01\\777")
    );
}

/// The mount of cgroup v2 here.
fn mount_here() -> Cgroup2Mount {
    let mounts = cgroup2_mounts(&std::fs::read_to_string("/proc/self/mountinfo").unwrap());
    mounts.into_iter().find(|m| m.root == Path::new("/")).expect("this test needs a mount of cgroup v2")
}

#[test]
fn folders_of_the_wrong_kind() {
    let places =
        |cgroup: &Path, bpffs: &Path| Places { cgroup_root: cgroup.into(), bpffs: bpffs.into() }.check();
    let nowhere = Path::new("/no/such/folder");
    assert_eq!(
        message(places(nowhere, nowhere)),
        (1, "--cgroup-root /no/such/folder: there is no such folder; make it first".to_owned())
    );
    let (code, text) = message(places(Path::new("/proc"), nowhere));
    assert_eq!(code, 1);
    assert!(text.starts_with("--cgroup-root /proc: this folder is not in a cgroup2 file system"), "{text}");
    let mount = mount_here();
    let (code, text) = message(places(&mount.point, Path::new("/proc")));
    assert_eq!(code, 1);
    assert!(text.starts_with("--bpffs /proc: this folder is not in a bpf file system"), "{text}");
    assert_eq!(
        message(places(&mount.point, Path::new("/proc/self/status"))).1,
        "--bpffs /proc/self/status: this is not a folder"
    );
}

#[test]
fn the_root_of_the_hierarchy_is_refused_on_demand() {
    let mount = mount_here();
    let refuse = |path: PathBuf| {
        Places { cgroup_root: path, bpffs: PathBuf::new() }.refuse_root(std::slice::from_ref(&mount))
    };
    assert!(matches!(refuse(mount.point.clone()), Err(ConfigError::RootCgroup { .. })));
    assert!(matches!(refuse(mount.point.join(".")), Err(ConfigError::RootCgroup { .. })));
    let Some(below) = std::fs::read_dir(&mount.point).unwrap().flatten().find(|e| e.path().is_dir()) else {
        return;
    };
    refuse(below.path()).unwrap();
}

proptest::proptest! {
    #[test]
    fn durations_are_read_as_they_are_written(h in 0u64..1000, m in 0u64..1000, s in 0u64..1000, ms in 0u64..1000) {
        let text = format!("{h}h{m}m{s}s{ms}ms");
        let wanted = Duration::from_millis(((h * 60 + m) * 60 + s) * 1000 + ms);
        proptest::prop_assert_eq!(values::duration(&text), Ok(wanted));
    }

    #[test]
    fn no_text_makes_a_parser_fall_over(text in ".{0,40}") {
        let _ = (values::duration(&text), values::host(&text), values::node_name(&text), values::capacity(&text));
        let _ = (text.parse::<Listen>(), file::parse(Path::new("f"), &text), cgroup2_mounts(&text));
    }

    #[test]
    fn an_address_is_written_as_it_is_read(text in "(unix:[a-z/. ]{1,20}|tcp:[a-z.]{1,20}:[0-9]{1,5}|tcp:\\[::[0-9a-f]{1,4}\\]:[0-9]{1,4})") {
        if let Ok(listen) = text.parse::<Listen>() {
            proptest::prop_assert_eq!(listen.to_string().parse::<Listen>(), Ok(listen));
        }
    }
}
