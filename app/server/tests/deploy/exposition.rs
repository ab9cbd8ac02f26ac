//! What servers expose, and what a query selects of it.

use std::collections::BTreeMap;

use regex::Regex;

/// The series of some servers, and the types of their metrics.
#[derive(Default)]
pub(crate) struct Exposition {
    series: Vec<Series>,
    types: BTreeMap<String, String>,
}

pub(crate) struct Series {
    name: String,
    pub(crate) labels: BTreeMap<String, String>,
}

/// One `name{label="value"}` of a query.
pub(crate) struct Selector {
    pub(crate) name: String,
    /// Label, operator and value.
    pub(crate) matchers: Vec<(String, String, String)>,
}

impl Exposition {
    /// Adds what one server shows, in Prometheus's text format.
    pub(crate) fn add(&mut self, text: &str) {
        let label = Regex::new(r#"([a-z_]+)="((?:[^"\\]|\\.)*)""#).unwrap();
        for line in text.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').unwrap();
                self.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let end = line.find(['{', ' ']).unwrap();
                let (name, rest) = line.split_at(end);
                let labels = label.captures_iter(rest);
                self.series.push(Series {
                    name: name.to_owned(),
                    labels: labels
                        .map(|found| (found[1].to_owned(), found[2].to_owned()))
                        .collect(),
                });
            }
        }
    }

    /// The series that a selector finds.
    pub(crate) fn find(&self, selector: &Selector) -> Vec<&Series> {
        let named = self.series.iter().filter(|it| it.name == selector.name);
        named.filter(|it| selector.selects(it)).collect()
    }

    /// Whether it only ever rises, so that a rate of it means something.
    pub(crate) fn is_counter(&self, name: &str) -> bool {
        let histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .any(|base| self.types.get(base).is_some_and(|kind| kind == "histogram"));
        histogram || self.types.get(name).is_some_and(|kind| kind == "counter")
    }
}

impl Selector {
    /// All selectors of a query.
    pub(crate) fn all(query: &str) -> Vec<Self> {
        let selector = Regex::new(r"([a-z_]+)\{([^}]*)\}").unwrap();
        let matcher = Regex::new(r#"([a-z_]+)(=~|!~|!=|=)"([^"]*)""#).unwrap();
        let all = selector.captures_iter(query).map(|found| Self {
            name: found[1].to_owned(),
            matchers: matcher
                .captures_iter(&found[2])
                .map(|found| {
                    (
                        found[1].to_owned(),
                        found[2].to_owned(),
                        found[3].to_owned(),
                    )
                })
                .collect(),
        });
        all.collect()
    }

    fn selects(&self, series: &Series) -> bool {
        // Prometheus adds these two.
        let own = |label: &str| !matches!(label, "job" | "instance");
        let mut matchers = self.matchers.iter().filter(|(label, ..)| own(label));
        matchers.all(|(label, operator, wanted)| {
            let Some(value) = series.labels.get(label) else {
                return false;
            };
            let matches = || {
                Regex::new(&format!("^(?:{wanted})$"))
                    .unwrap()
                    .is_match(value)
            };
            match &**operator {
                "=" => value == wanted,
                "!=" => value != wanted,
                "=~" => matches(),
                _ => !matches(),
            }
        })
    }
}
