//! The results of one run: sections for people, and the same as JSON for comparisons.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::{Map, Value};

use super::setting::Options;
use crate::host::Host;

pub(crate) struct Report {
    host: Host,
    mode: Option<&'static str>,
    heading: String,
    sections: String,
    figures: Map<String, Value>,
    chart: Option<String>,
}

impl Report {
    /// Looks at the machine before anything is measured.
    pub(crate) fn begin(mode: Option<&'static str>, options: &Options) -> Self {
        let host = Host::here();
        let heading = heading(&host, mode, options);
        let mut figures = host.json();
        figures.insert("postgres".to_owned(), options.postgres.major().into());
        figures.insert("experiments".to_owned(), options.experiments().into());
        Self { host, mode, heading, sections: String::new(), figures, chart: None }
    }

    /// Adds a section of the text.
    pub(crate) fn section(&mut self, title: &str, text: &str) {
        self.sections.push_str(&format!("\n## {title}\n\n{}\n", text.trim_end()));
    }

    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Adds a picture that is kept beside the table.
    pub(crate) fn chart(&mut self, svg: String) {
        self.chart = Some(svg);
    }

    pub(crate) fn markdown(&self) -> String {
        let chart =
            self.chart.as_ref().map_or_else(String::new, |_| format!("\n![Rows a second]({}.svg)\n", self.name()));
        format!("{}{chart}{}", self.heading, self.sections)
    }

    /// `<date>-<commit>`, and the mode when it has one.
    fn name(&self) -> String {
        let mode = self.mode.map_or_else(String::new, |mode| format!("-{mode}"));
        format!("{}-{}{mode}", self.host.date.replace(':', ""), self.host.commit)
    }

    /// Writes `.md` and `.json`, and `.svg` when there is a chart. Returns the path of the first.
    pub(crate) fn keep(&self, results: &Path) -> Result<PathBuf> {
        fs::create_dir_all(results)?;
        let path = |extension: &str| results.join(format!("{}.{extension}", self.name()));
        fs::write(path("md"), self.markdown())?;
        fs::write(path("json"), format!("{:#}\n", Value::Object(self.figures.clone())))?;
        if let Some(svg) = &self.chart {
            fs::write(path("svg"), svg)?;
        }
        Ok(path("md").canonicalize()?)
    }
}

fn heading(host: &Host, mode: Option<&str>, options: &Options) -> String {
    let Host { name, processor, cores, memory_gib, kernel, load, commit, date } = host;
    let mode = mode.map_or_else(String::new, |mode| format!(" {mode}"));
    let experiments = options.experiments();
    let with = if experiments.is_empty() { String::new() } else { format!("; with {}", experiments.join(", ")) };
    format!(
        "# outboxd {commit}{mode}, {date}\n\n\
         {cores} cores of {processor}, {memory_gib} GiB, Linux {kernel}, host {name}, load before: {load}.\n\
         Postgres {} (fsync on), Kafka {} (one broker), outboxd and the measuring program share them{with}.\n\
         Exactly-once, {}, unless a line says otherwise.\n",
        options.postgres.major(),
        testbed::artifacts::KAFKA,
        options.via
    )
}
