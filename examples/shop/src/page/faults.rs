//! What the buttons break, and for how long.

use std::time::Duration;

use anyhow::Result;

use crate::prove::{Part, Stage};

#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Logistics,
    Outboxd,
    Kafka,
    Postgres,
}

const FOR: Duration = Duration::from_secs(5);
/// A slow Postgres stands still for this long, and works for as long, in turns.
const TURN: Duration = Duration::from_millis(250);

impl Fault {
    pub(super) const NAMES: [(&'static str, &'static str); 4] = [
        ("logistics", "stop Logistics for 5 s"),
        ("outboxd", "kill -9 every outboxd"),
        ("kafka", "pause Kafka for 5 s"),
        ("postgres", "slow Postgres for 5 s"),
    ];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "logistics" => Self::Logistics,
            "outboxd" => Self::Outboxd,
            "kafka" => Self::Kafka,
            "postgres" => Self::Postgres,
            _ => return None,
        })
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Logistics => "Logistics is stopped",
            Self::Outboxd => "every outboxd was killed",
            Self::Kafka => "Kafka stands still",
            Self::Postgres => "Postgres is slow",
        }
    }

    pub(super) async fn inflict(self, stage: &Stage) -> Result<()> {
        match self {
            Self::Logistics => kill(stage, &[Part::Logistics]).await,
            Self::Outboxd => {
                let all: Vec<Part> = stage.started().into_iter().filter(|part| part.is_outboxd()).collect();
                kill(stage, &all).await
            }
            Self::Kafka => {
                stage.kafka.pause(0)?;
                tokio::time::sleep(FOR).await;
                stage.kafka.resume(0)
            }
            Self::Postgres => {
                let mut left = FOR;
                while !left.is_zero() {
                    stage.postgres.pause()?;
                    tokio::time::sleep(TURN).await;
                    stage.postgres.resume()?;
                    tokio::time::sleep(TURN).await;
                    left = left.saturating_sub(TURN * 2);
                }
                Ok(())
            }
        }
    }
}

async fn kill(stage: &Stage, parts: &[Part]) -> Result<()> {
    for part in parts {
        stage.kill9(*part)?;
    }
    tokio::time::sleep(FOR).await;
    for part in parts {
        stage.start_again(*part)?;
    }
    Ok(())
}
