//! The kernel side with the real kernel, in a cgroup and a bpffs folder of the test's own.

use std::{fs, path::PathBuf, sync::Arc};

use balancing_agent::kernel::{Grace, Programmer, Sizes, open};

#[test]
fn smoke() {
    let cg = PathBuf::from(format!("/sys/fs/cgroup/unified/balancing-test-{}", std::process::id()));
    let bpf = PathBuf::from(format!("/sys/fs/bpf/balancing-test-{}", std::process::id()));
    fs::create_dir(&cg).unwrap();
    fs::create_dir(&bpf).unwrap();
    let t = std::time::Instant::now();
    let mut opened = open(&bpf, &cg, 1, Sizes::new(65536, 131072, 2)).unwrap_or_else(|e| panic!("{e}: {:?}", std::error::Error::source(&e)));
    println!("opened {:?} {:?}", t.elapsed(), opened.attachment.features());
    let grace = Arc::new(Grace::start(|| ()).unwrap());
    let _p = Programmer::take_over(opened.store.clone(), grace).unwrap();
    opened.attachment.attach().unwrap();
    for p in opened.attachment.programs() { println!("{p:?}"); }
    println!("{:?}", std::process::Command::new("find").arg(&bpf).output().map(|o| String::from_utf8(o.stdout)));
    println!("{}", String::from_utf8(std::process::Command::new("bpftool").args(["prog","show"]).output().unwrap().stdout).unwrap());
    drop(opened);
    println!("{:?}", balancing_agent::kernel::cleanup(&bpf));
    fs::remove_dir(&bpf).unwrap();
    fs::remove_dir(&cg).unwrap();
}
