//! What the layers do together.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;

use serde::Deserialize;

use super::{Loader, Secret, SettingsError};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    name: String,
    verbose: bool,
    ratio: f64,
    store: Store,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Store {
    kind: Kind,
    pool: u16,
    url: Option<Secret>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Memory,
    Postgres,
}

const DEFAULTS: &str = "
name = 'default'
verbose = false
ratio = 1.0
[store]
kind = 'memory'
pool = 1
";

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn from_environment(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Loader::new(DEFAULTS)
        .environment("APP")
        .load_from(variables(pairs))
}

fn from_file(text: &str) -> (String, Result<Settings, SettingsError>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let settings = Loader::new(DEFAULTS).file(Some(file.path())).load_from([]);
    (file.path().display().to_string(), settings)
}

#[test]
fn each_layer_is_stronger_than_the_one_before() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(
        file,
        "name = 'file'\nverbose = true\n[store]\nkind = 'postgres'\npool = 2"
    )
    .unwrap();

    let settings: Settings = Loader::new(DEFAULTS)
        .file(Some(file.path()))
        .environment("APP")
        .overrides([("store.pool", "4")])
        .load_from(variables(&[
            ("APP__NAME", "environment"),
            ("APP__STORE__POOL", "3"),
        ]))
        .unwrap();

    assert_eq!(settings.store.pool, 4, "the flag");
    assert_eq!(settings.name, "environment", "the environment");
    assert_eq!(settings.store.kind, Kind::Postgres, "the file");
    assert!(settings.verbose, "the file");
    assert!((settings.ratio - 1.0).abs() < f64::EPSILON, "the defaults");
}

#[test]
fn text_takes_the_type_of_its_field() {
    let settings = from_environment(&[
        ("APP__VERBOSE", "true"),
        ("app__ratio", "0.25"),
        ("APP__STORE__POOL", "12"),
    ])
    .unwrap();
    assert!(settings.verbose);
    assert!((settings.ratio - 0.25).abs() < f64::EPSILON);
    assert_eq!(settings.store.pool, 12);
}

#[test]
fn text_that_looks_like_something_else_stays_as_written() {
    for text in [
        "123", "007", "1e3", "1.0", "TRUE", "true", "nan", "-0", "+1", "0.5",
    ] {
        let settings = from_environment(&[("APP__NAME", text), ("APP__STORE__URL", text)]).unwrap();
        assert_eq!(settings.name, text);
        assert_eq!(settings.store.url.unwrap().expose(), text);
    }
}

#[test]
fn a_number_reaches_a_table_that_is_tagged_by_its_kind() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    enum Tagged {
        Postgres { pool: u16, strict: bool },
    }
    #[derive(Deserialize)]
    struct Outer {
        store: Tagged,
    }
    let outer: Outer = Loader::new("[store]\nkind = 'postgres'")
        .environment("APP")
        .load_from(variables(&[
            ("APP__STORE__POOL", "5"),
            ("APP__STORE__STRICT", "true"),
        ]))
        .unwrap();
    assert_eq!(
        outer.store,
        Tagged::Postgres {
            pool: 5,
            strict: true
        }
    );
}

#[test]
fn other_variables_and_empty_ones_are_left_alone() {
    let settings = from_environment(&[
        ("APP_PORT", "tcp://10.0.0.1:80"),
        ("OTHER__NAME", "x"),
        ("APP__NAME", ""),
    ])
    .unwrap();
    assert_eq!(settings.name, "default");
}

#[test]
fn an_unknown_variable_is_refused_by_name() {
    let error = from_environment(&[("APP__STORE__KNID", "postgres")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "APP__STORE__KNID: `store.knid`: unknown key, expected one of `kind`, `pool`, `url`"
    );
    let error = from_environment(&[("APP__NOISE", "1")])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("APP__NOISE: `noise`: unknown key"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_of_a_file_is_refused_with_the_file() {
    let (path, settings) = from_file("[store]\nknid = 'postgres'");
    let error = settings.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{path}: `store.knid`: unknown key")),
        "{error}"
    );
}

#[test]
fn an_unknown_flag_is_refused() {
    let loader = Loader::new(DEFAULTS).overrides([("stroe.kind", "memory")]);
    let error = loader.load_from::<Settings>([]).unwrap_err().to_string();
    assert!(
        error.starts_with("the command line: `stroe`: unknown key"),
        "{error}"
    );
}

#[test]
fn a_value_that_does_not_fit_is_named_but_not_shown() {
    let error = from_environment(&[("APP__STORE__POOL", "hidden")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "APP__STORE__POOL: `store.pool`: expected an integer"
    );

    for text in ["hidden", "-1", "70000"] {
        let error = from_environment(&[("APP__STORE__POOL", text)])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("APP__STORE__POOL: `store.pool`: expected an"),
            "{error}"
        );
        assert!(!error.contains(text), "{error}");
    }

    let error = from_environment(&[("APP__STORE", "postgres://u:hidden@h")]).unwrap_err();
    assert!(!error.to_string().contains("hidden"), "{error}");
}

#[test]
fn a_wrong_choice_is_named() {
    let error = from_environment(&[("APP__STORE__KIND", "postgress")])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("APP__STORE__KIND: `store.kind`: "),
        "{error}"
    );
    assert!(error.contains("postgress"), "{error}");
}

#[test]
fn a_missing_key_is_named() {
    let error = Loader::new("name = 'x'")
        .load_from::<Settings>([])
        .unwrap_err()
        .to_string();
    assert!(error.contains("verbose") || error.contains("ratio") || error.contains("store"));
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn broken_toml_is_one_line_that_quotes_nothing() {
    let (path, settings) = from_file("[store]\nurl = \"postgres://u:hidden@h\n");
    let error = settings.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{path}: TOML parse error at line 2")),
        "{error}"
    );
    assert!(!error.contains("hidden"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_named_file_must_exist() {
    let loader = Loader::new(DEFAULTS).file(Some("/no/such.toml".as_ref()));
    let error = loader.load_from::<Settings>([]).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /no/such.toml");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_variable_that_is_not_text_is_refused_by_name() {
    let variable = ("APP__NAME".into(), OsString::from_vec(vec![0xff]));
    let loader = Loader::new(DEFAULTS).environment("APP");
    let error = loader.load_from::<Settings>([variable]).unwrap_err();
    assert_eq!(error.to_string(), "APP__NAME: the value is not UTF-8");
}

#[test]
fn a_secret_never_prints() {
    let settings = from_environment(&[("APP__STORE__URL", "postgres://u:hidden@h")]).unwrap();
    assert_eq!(
        settings.store.url.as_ref().unwrap().expose(),
        "postgres://u:hidden@h"
    );
    let printed = format!("{settings:?} {settings:#?}");
    assert!(printed.contains("[secret]"), "{printed}");
    assert!(!printed.contains("hidden"), "{printed}");
}
