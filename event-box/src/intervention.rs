use sqlx::PgConnection;

use crate::schema::Schema;

/// What somebody did to a group as a whole, for the table `interventions`; what is done to single events is recorded by the statements
/// that do it.
#[derive(Debug)]
pub(crate) struct Intervention<'a> {
    /// The database's session user where nobody is named.
    pub(crate) actor: Option<&'a str>,
    pub(crate) action: &'a str,
    pub(crate) group: Option<&'a str>,
    pub(crate) topic: Option<&'a str>,
    pub(crate) detail: Option<String>,
}

impl Intervention<'_> {
    /// Written in the transaction of what it records.
    pub(crate) async fn record(&self, connection: &mut PgConnection, schema: &Schema) -> Result<(), sqlx::Error> {
        sqlx::query!(
            r#"insert into event_box.interventions (actor, action, group_name, topic, detail)
               values (coalesce($1, session_user::text), $2, $3, $4, $5)"#,
            self.actor,
            self.action,
            self.group,
            self.topic,
            self.detail,
        )
        .execute(schema.over(connection))
        .await?;
        Ok(())
    }
}
