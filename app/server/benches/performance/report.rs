//! The report: Markdown for people, JSON for programs, both written anew after every section, so
//! that a run that is broken off leaves what it has.

use std::{fs, path::PathBuf};

use serde_json::{Map, Value, json};

pub(crate) struct Report {
    folder: PathBuf,
    markdown: String,
    json: Map<String, Value>,
}

/// A line of a table: cells under their headings, and the same as JSON.
pub(crate) struct Line {
    cells: Vec<(&'static str, String)>,
    json: Map<String, Value>,
    failed: Option<String>,
}

impl Line {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            cells: vec![("row", id.to_owned())],
            json: Map::from_iter([("id".to_owned(), id.into())]),
            failed: None,
        }
    }

    /// A row that could not be measured.
    pub(crate) fn failed(id: &str, error: &anyhow::Error) -> Self {
        let problem = format!("{error:#}");
        eprintln!("{id}: {problem}");
        Self {
            failed: Some(format!("`{id}` could not be measured: {problem}")),
            ..Self::new(id).hidden("problem", problem.into())
        }
    }

    pub(crate) fn figure(
        mut self,
        heading: &'static str,
        name: &str,
        figure: Option<f64>,
        decimals: usize,
    ) -> Self {
        let cell = figure.map_or_else(String::new, |figure| grouped(figure, decimals));
        self.cells.push((heading, cell));
        self.hidden(name, figure.into())
    }

    pub(crate) fn ratios(mut self, ratios: impl Iterator<Item = (String, f64)>) -> Self {
        let ratios: Vec<_> = ratios.collect();
        let cells: Vec<_> = ratios
            .iter()
            .map(|(control, ratio)| format!("{ratio:.2} × {control}"))
            .collect();
        self.cells.push(("of its control", cells.join(", ")));
        let ratios = ratios.into_iter().map(|(id, ratio)| (id, ratio.into()));
        self.hidden("ratios", Value::Object(ratios.collect()))
    }

    pub(crate) fn text(mut self, heading: &'static str, name: &str, text: String) -> Self {
        self.cells.push((heading, text.clone()));
        self.hidden(name, text.into())
    }

    /// In the JSON only.
    pub(crate) fn hidden(mut self, name: &str, value: Value) -> Self {
        self.json.insert(name.to_owned(), value);
        self
    }
}

impl Report {
    pub(crate) fn new(folder: PathBuf, machine: &str, machine_json: Value) -> Self {
        println!("{machine}\n");
        Self {
            folder,
            markdown: format!("{machine}\n"),
            json: Map::from_iter([
                ("machine".to_owned(), machine_json),
                ("sections".to_owned(), json!([])),
            ]),
        }
    }

    /// Adds a table, and writes all there is so far.
    pub(crate) fn section(
        &mut self,
        title: &str,
        about: &str,
        lines: Vec<Line>,
    ) -> anyhow::Result<()> {
        let mut text = format!("\n## {title}\n\n{about}\n");
        let (failed, measured): (Vec<_>, Vec<_>) =
            lines.iter().partition(|line| line.failed.is_some());
        if let Some(first) = measured.first() {
            let headings: Vec<_> = first.cells.iter().map(|(heading, _)| *heading).collect();
            let rule = headings.iter().enumerate().map(|(number, heading)| {
                // Names to the left, figures to the right.
                if number == 0 || ["of its control", "what"].contains(heading) {
                    "---"
                } else {
                    "---:"
                }
            });
            text += &format!("\n| {} |\n", headings.join(" | "));
            text += &format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
            for line in measured {
                let cells: Vec<_> = line.cells.iter().map(|(_, cell)| cell.as_str()).collect();
                text += &format!("| {} |\n", cells.join(" | "));
            }
        }
        for problem in failed.iter().filter_map(|line| line.failed.as_ref()) {
            text += &format!("\n{problem}\n");
        }
        println!("{text}");
        self.markdown += &text;
        let rows: Vec<_> = lines.into_iter().map(|line| line.json).collect();
        if let Some(sections) = self.json["sections"].as_array_mut() {
            sections.push(json!({ "title": title, "about": about, "rows": rows }));
        }
        fs::create_dir_all(&self.folder)?;
        fs::write(self.folder.join("performance.md"), &self.markdown)?;
        let json = serde_json::to_string_pretty(&self.json)?;
        fs::write(self.folder.join("performance.json"), json)?;
        Ok(())
    }
}

/// With commas between the thousands.
fn grouped(figure: f64, decimals: usize) -> String {
    let plain = format!("{figure:.decimals$}");
    let (whole, rest) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let mut text = String::new();
    for (number, digit) in whole.chars().enumerate() {
        let behind = whole.len() - number;
        if number > 0 && behind.is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}
