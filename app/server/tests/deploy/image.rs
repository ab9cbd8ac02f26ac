//! `Dockerfile` and `.dockerignore`.

use regex::Regex;

use crate::{settings, text};

/// The port in `EXPOSE`.
pub(crate) fn exposed_port() -> u16 {
    let expose = Regex::new(r"(?m)^EXPOSE (\d+)$").unwrap();
    expose.captures(&text("Dockerfile")).unwrap()[1]
        .parse()
        .unwrap()
}

/// The variables that the image sets.
pub(crate) fn environment() -> Vec<(String, String)> {
    let variable = Regex::new(r"(CATCHALL__[A-Z_]+)=(\S+)").unwrap();
    variable
        .captures_iter(&text("Dockerfile"))
        .map(|found| (found[1].to_owned(), found[2].to_owned()))
        .collect()
}

#[test]
fn the_image_is_built_with_the_compiler_that_the_crates_ask_for() {
    let from = concat!("FROM rust:", env!("CARGO_PKG_RUST_VERSION"), "-slim-");
    assert!(text("Dockerfile").contains(from), "{from}");
}

#[test]
fn the_build_sees_all_it_reads() {
    let cargo = text("Cargo.toml");
    let members = cargo.split_once("members = [").unwrap().1;
    let members = members.split_once(']').unwrap().0;
    let folders: Vec<&str> = members
        .split('"')
        .skip(1)
        .step_by(2)
        .map(|member| member.split('/').next().unwrap())
        .collect();
    assert!(folders.len() > 3, "{folders:?}");

    let ignore = text(".dockerignore");
    let let_in: Vec<&str> = ignore
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    assert!(ignore.lines().any(|line| line == "*"));
    for needed in folders
        .iter()
        .chain(&["Cargo.toml", "Cargo.lock", "migrations"])
    {
        assert!(let_in.contains(needed), ".dockerignore keeps {needed} out");
    }
}

#[test]
fn the_image_listens_where_it_says_and_writes_to_its_volume() {
    let environment = environment();
    let settings = settings(environment.iter().map(|(name, value)| (&**name, &**value)));
    assert_eq!(settings.listen.port(), exposed_port());
    assert!(settings.listen.ip().is_unspecified());

    let data = settings.store.embedded.path.to_str().unwrap();
    let dockerfile = text("Dockerfile");
    assert!(dockerfile.contains(&format!("\nVOLUME {data}\n")));
    let user = Regex::new(r"(?m)^USER (\d+:\d+)$").unwrap();
    let user = &user.captures(&dockerfile).unwrap()[1];
    assert!(!user.starts_with("0:"), "the server runs as root");
    let owned = Regex::new(&format!(r"(?m)^COPY .*--chown={user} \S+ {data}$")).unwrap();
    assert!(owned.is_match(&dockerfile), "{user} cannot write to {data}");
}
