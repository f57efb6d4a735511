//! What Grafana would only show as an empty page: links that lead nowhere, and variables that nobody sets. What panels ask, a real Prometheus
//! is asked by `deploy/tests/prometheus`.

use std::collections::{BTreeMap, BTreeSet};

use conduit_deploy::Install;
use serde_json::Value;

/// By their names, as they are installed.
fn dashboards() -> BTreeMap<String, Value> {
    let manifest = Install::default().manifest("conduit").expect("the flags are right");
    let mut maps = manifest.objects().iter();
    let map = maps.find(|object| object["metadata"]["name"] == "grafana-dashboards").expect("it is there");
    let files = map["data"].as_object().expect("it has files").iter();
    let parsed = |text: &Value| serde_json::from_str(text_of(text)).expect("it is JSON");
    files.map(|(name, text)| (name.clone(), parsed(text))).collect()
}

fn text_of(value: &Value) -> &str {
    value.as_str().expect("it is text")
}

fn items(value: &Value) -> &[Value] {
    value.as_array().expect("it is a list")
}

fn variables(dashboard: &Value) -> BTreeSet<&str> {
    items(&dashboard["templating"]["list"]).iter().map(|variable| text_of(&variable["name"])).collect()
}

/// The names behind `$` in `text`; Grafana sets those that begin with two underscores.
fn used(text: &str) -> BTreeSet<&str> {
    let names = text.split('$').skip(1).map(|rest| {
        let end = rest.find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        &rest[..end.unwrap_or(rest.len())]
    });
    names.filter(|name| !name.is_empty() && !name.starts_with("__")).collect()
}

#[test]
fn there_are_ten_and_each_is_its_own() {
    let dashboards = dashboards();
    assert_eq!(dashboards.len(), 10);
    for (file, dashboard) in &dashboards {
        assert_eq!(format!("conduit-{}", file.strip_suffix(".json").unwrap()), dashboard["uid"]);
        let ids: BTreeSet<_> = items(&dashboard["panels"]).iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), items(&dashboard["panels"]).len(), "{file}");
    }
    let titles: BTreeSet<_> = dashboards.values().map(|dashboard| text_of(&dashboard["title"])).collect();
    assert_eq!(titles.len(), 10);
}

#[test]
fn what_is_asked_is_chosen_on_the_same_page() {
    for (file, dashboard) in &dashboards() {
        let chosen = variables(dashboard);
        for variable in items(&dashboard["templating"]["list"]) {
            assert!(used(text_of(&variable["query"]["query"])).is_subset(&chosen), "{file}");
        }
        for panel in items(&dashboard["panels"]) {
            assert!(used(text_of(&panel["title"])).is_subset(&chosen), "{file}: {}", panel["title"]);
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = text_of(&target["expr"]);
                assert!(used(expression).is_subset(&chosen), "{file}: {expression}");
            }
        }
    }
}

#[test]
fn links_lead_to_dashboards_that_know_what_they_say() {
    let dashboards = dashboards();
    let mut links = 0;
    for dashboard in dashboards.values() {
        let panels = items(&dashboard["panels"]).iter();
        for link in panels.filter_map(|panel| panel["fieldConfig"]["defaults"]["links"].as_array()).flatten() {
            let url = text_of(&link["url"]);
            let (name, query) = url.strip_prefix("/d/conduit-").unwrap().split_once('?').unwrap();
            let target = &dashboards[&format!("{name}.json")];
            let said = query.split('&').filter_map(|pair| pair.strip_prefix("var-")?.split_once('='));
            let said: BTreeSet<_> = said.map(|(variable, _)| variable).collect();
            assert!(said.is_subset(&variables(target)), "{url}");
            links += 1;
        }
    }
    assert!(links > 0);
}

#[test]
fn panels_do_not_cover_each_other() {
    for (file, dashboard) in &dashboards() {
        let mut taken = BTreeSet::new();
        for panel in items(&dashboard["panels"]) {
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(x + w <= 24, "{file}: {}", panel["title"]);
            for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(place), "{file}: {}", panel["title"]);
            }
        }
    }
}
