//! The ways back from a halt. A person chooses one, after hearing what it may lose or repeat.
//!
//! ```text
//!   lock ─▶ facts: position, slot, server ─▶ plan (pure): why the source halts, what is lost or
//!                                              │           repeated, what to write
//!                                              │ a person agrees
//!                                              ▼
//!   fence every daemon ─▶ the same facts still? ─▶ position in Kafka ─▶ slot
//! ```
//!
//! What must hold:
//! - it does not touch a source from which a session streams, or that would start without a halt;
//! - it changes nothing before a person has agreed, and nothing if anything changed in the
//!   meantime;
//! - it writes the position before it touches the slot. After a kill between any two steps, the
//!   source is as it was, or in phase `creating`. The next `run`, or the same `recover`, goes on
//!   from `creating`.

pub(crate) mod plan;

use std::time::SystemTime;

use crate::{
    Code, Error, Result,
    config::{Kafka, Source},
    kafka::position_topic,
    postgres::{ConnectOptions, CreateSlot, SqlSession, catalog::slots},
    source::{
        facts::{Facts, Look},
        lock, newest,
        position::Position,
        server::require_server,
        takeover::Takeover,
    },
};

pub use plan::{Next, Plan, Strategy};

/// A recovery that is under way. It holds the source's advisory lock as long as it lives.
pub(crate) struct Recovery<'a> {
    source: &'a Source,
    kafka: &'a Kafka,
    connect: ConnectOptions,
    sql: SqlSession,
    facts: Facts,
}

impl<'a> Recovery<'a> {
    /// Takes the lock and looks at everything. It changes nothing.
    ///
    /// # Errors
    /// [`Code::RecoverRefused`] when somebody else sets the source up or recovers it; any failure
    /// to look.
    pub(crate) async fn begin(source: &'a Source, kafka: &'a Kafka) -> Result<Self> {
        let connect = ConnectOptions::of(source);
        let sql = connect.sql("recover").await?;
        require_server(&sql).await?;
        if !lock::take(&sql, &source.name).await? {
            let text = "another session sets the source up, backfills or recovers it";
            return Err(Error::new(Code::RecoverRefused, text));
        }
        lock::slot_at_rest(&sql, &source.slot).await?;
        let look = Look { source, kafka, connect: &connect, patience: newest::PATIENCE };
        let facts = look.through(Ok(&sql)).await.whole()?;
        Ok(Self { source, kafka, connect, sql, facts })
    }

    /// What `strategy` would do, and what it may lose or repeat.
    ///
    /// # Errors
    /// [`Code::RecoverRefused`].
    pub(crate) fn plan(&self, strategy: Strategy, force: bool) -> Result<Plan> {
        Plan::new(&self.facts, self.source, strategy, force)
    }

    /// Carries the plan out, and says each step before it takes it.
    ///
    /// # Errors
    /// [`Code::RecoverRefused`] when anything has changed since the plan was made; whatever else
    /// stands in the way. Both leave the source as the module's documentation says.
    pub(crate) async fn carry_out(self, plan: &Plan, by: String, say: impl Fn(&str)) -> Result<()> {
        say("fencing every daemon of the source");
        position_topic::ensure(self.kafka).await?;
        let takeover = Takeover::fence(self.source, self.kafka).await?;
        self.require_unchanged().await?;
        let recovered = plan.recovered(&self.facts, by, SystemTime::now());
        let signed = |mut position: Position| {
            position.recovered = Some(recovered.clone());
            position
        };
        say("writing the position");
        let takeover = takeover.write(&signed(plan.position.clone())).await?;
        if plan.next != Next::KeepSlot {
            say("dropping the slot");
            slots::drop_slot(&self.sql, &self.source.slot).await?;
        }
        match plan.next {
            Next::KeepSlot | Next::DropSlot => {}
            Next::NewSlot => {
                say("making the slot anew, when every transaction that is open has ended");
                let options = CreateSlot {
                    export_snapshot: false,
                    failover: self.source.failover,
                    temporary: false,
                    lock_timeout: self.source.timeouts.lock,
                };
                let mut client = self.connect.replication().await?;
                let created = client.create_slot(&self.source.slot, &options).await?;
                say("writing the position of the new slot");
                takeover.write(&signed(self.facts.streaming_at(created.consistent_point, self.source))).await?;
            }
        }
        Ok(())
    }

    /// Every daemon is fenced by now, so what we read here does not change until a daemon starts.
    /// That daemon would fence us first.
    async fn require_unchanged(&self) -> Result<()> {
        let (source, kafka, connect) = (self.source, self.kafka, &self.connect);
        let look = Look { source, kafka, connect, patience: newest::PATIENCE };
        let now = look.through(Ok(&self.sql)).await.whole()?;
        let same = now.published == self.facts.published
            && now.slot == self.facts.slot
            && now.server.publication == self.facts.server.publication
            && now.server.system_id == self.facts.server.system_id
            && now.server.timeline == self.facts.server.timeline;
        if same {
            return Ok(());
        }
        let text = "slot, position or publication changed since they were looked at: look again";
        Err(Error::new(Code::RecoverRefused, text))
    }
}
