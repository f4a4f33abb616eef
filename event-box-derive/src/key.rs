use syn::{Error, Field, Fields, Ident, LitStr, Member, Type, ext::IdentExt};

use crate::suggest::{instead_of, one_of};

/// The field that keys the event.
pub(crate) struct Key<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
}

impl<'a> Key<'a> {
    pub(crate) fn find(ident: &Ident, fields: &'a Fields, name: &LitStr) -> Result<Self, Error> {
        let given = name.value();
        let wanted = given.strip_prefix("r#").unwrap_or(&given);
        let found = fields.members().zip(fields).find(|(member, _)| called(member) == wanted);
        if let Some((member, Field { ty, .. })) = found {
            return Ok(Self { member, ty });
        }
        let names: Vec<_> = fields.members().map(|member| called(&member)).collect();
        let mistake = if names.is_empty() {
            format!("`{ident}` has no fields: leave `partition_key` out")
        } else if wanted.is_empty() {
            let names = one_of(&names);
            format!("the partition key is empty: name {names}, or leave it out for events without order")
        } else if let Some((head, _)) = wanted.split_once('.')
            && names.iter().any(|name| name == head)
        {
            format!("`{given}` is not a field: name `{head}`, and implement `event_box::PartitionKey` for its type")
        } else {
            format!("no field `{given}` on `{ident}`, {}", instead_of(wanted, &names))
        };
        Err(Error::new(name.span(), mistake))
    }
}

/// What an attribute calls a field: `type` for `r#type`, `0` for the first of a tuple struct.
pub(crate) fn called(member: &Member) -> String {
    match member {
        Member::Named(name) => name.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}
