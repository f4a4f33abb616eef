/// How a message goes on after a name that is not one of `known`: with the one that was meant, else with all of them.
pub(crate) fn instead_of(name: &str, known: &[String]) -> String {
    let closest = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(left, _), (right, _)| left.total_cmp(right));
    match closest {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None => format!("expected {}", one_of(known)),
    }
}

/// "`a`, `b` or `c`".
pub(crate) fn one_of(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
