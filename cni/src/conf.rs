//! The plugin's entry in the configuration of a node's network, which belongs to others: all else in it stays.

use serde_json::{Map, Value, json};

use crate::{PLUGIN, VERSIONS};

const LIST: &str = ".conflist";
/// A single plugin, of which a list is made. Runtimes read these three, and take the first by name that they understand.
const SINGLE: [&str; 2] = [".conf", ".json"];

/// What is to be done to the directory.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The runtime finds the plugin already.
    Nothing,
    /// No network is configured yet.
    NoNetwork,
    /// The network is of a version that the plugin does not speak: it would let no pod start.
    NotSpoken {
        /// Of the file.
        name: String,
        /// As it says.
        version: String,
    },
    /// Writes a file, and removes the one that it stands for, if that has another name.
    Write {
        /// Its name.
        name: String,
        /// All of it.
        text: String,
        /// Of a single plugin.
        removed: Option<String>,
    },
}

/// The entry of a plugin that asks at `socket`, and not about pods of `exclude`.
pub fn entry(socket: &str, exclude: &[String]) -> Value {
    json!({"type": PLUGIN, "socket": socket, "excludeNamespaces": exclude})
}

/// What puts `entry` where the runtime will find it, after all plugins that are there. `files` are all of the directory, by name.
pub fn added(files: &[(String, String)], entry: &Value) -> Change {
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort();
    let found = sorted.into_iter().find_map(|(name, text)| Some((name, network(name, text)?)));
    let Some((name, mut list)) = found else { return Change::NoNetwork };
    let version = list["cniVersion"].as_str().unwrap_or_default();
    if !VERSIONS.contains(&version) {
        return Change::NotSpoken { name: name.clone(), version: version.to_owned() };
    }
    let Some(plugins) = list["plugins"].as_array_mut() else { return Change::NoNetwork };
    let before = plugins.clone();
    let is_ours = |plugin: &Value| plugin["type"] == PLUGIN;
    match plugins.iter().position(is_ours) {
        Some(place) => {
            plugins[place] = entry.clone();
            let mut number = 0..;
            plugins.retain(|plugin| number.next() <= Some(place) || !is_ours(plugin));
        }
        None => plugins.push(entry.clone()),
    }
    let stem = SINGLE.into_iter().find_map(|ending| name.strip_suffix(ending));
    if stem.is_none() && *plugins == before {
        return Change::Nothing;
    }
    let written = stem.map_or_else(|| name.clone(), |stem| format!("{stem}{LIST}"));
    Change::Write { name: written, text: format!("{list:#}\n"), removed: stem.map(|_| name.clone()) }
}

/// The files that have an entry of the plugin, without it.
pub fn removed(files: &[(String, String)]) -> Vec<(String, String)> {
    let without = |(name, text): &(String, String)| {
        let mut list = network(name, text).filter(|_| name.ends_with(LIST))?;
        let plugins = list["plugins"].as_array_mut()?;
        let before = plugins.len();
        plugins.retain(|plugin| plugin["type"] != PLUGIN);
        (plugins.len() < before).then(|| (name.clone(), format!("{list:#}\n")))
    };
    files.iter().filter_map(without).collect()
}

/// A list of plugins, if the file is one or is made one; nothing if a runtime would not take it either.
fn network(name: &str, text: &str) -> Option<Value> {
    let is_single = SINGLE.iter().any(|ending| name.ends_with(ending));
    if !is_single && !name.ends_with(LIST) {
        return None;
    }
    let mut value: Value = serde_json::from_str(text).ok()?;
    let object = value.as_object_mut()?;
    if !is_single {
        let plugins = object.get("plugins")?.as_array()?;
        let are_plugins = !plugins.is_empty() && plugins.iter().all(|plugin| plugin["type"].is_string());
        return are_plugins.then_some(value);
    }
    object.get("type")?.as_str()?;
    let mut list = Map::new();
    for key in ["cniVersion", "name"] {
        list.extend(object.remove(key).map(|value| (key.to_owned(), value)));
    }
    list.insert("plugins".to_owned(), json!([value]));
    Some(Value::Object(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "name": "net", "future": {"a": [1]}, "plugins": [
        {"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap", "unknown": true}]}"#;

    fn ours() -> Value {
        entry("/run/agent.sock", &["kube-system".to_owned()])
    }

    fn files(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    /// The file that is written, which one goes, and what is in it.
    fn written(there: &[(&str, &str)]) -> (String, Option<String>, Value) {
        let Change::Write { name, text, removed } = added(&files(there), &ours()) else { panic!("nothing is written") };
        // Once it is there, nothing is.
        let mut after = files(there);
        after.retain(|(file, _)| Some(file) != removed.as_ref() && *file != name);
        after.push((name.clone(), text.clone()));
        assert_eq!(added(&after, &ours()), Change::Nothing);
        (name, removed, serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_list_has_it_last_and_keeps_all_else() {
        let (name, removed, list) = written(&[("10-net.conflist", BRIDGE), ("20-other.conflist", BRIDGE)]);
        assert_eq!((name.as_str(), removed), ("10-net.conflist", None));
        let mut expected: Value = serde_json::from_str(BRIDGE).unwrap();
        expected["plugins"].as_array_mut().unwrap().push(ours());
        assert_eq!(list, expected);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let single = r#"{"cniVersion": "0.3.1", "name": "net", "type": "bridge", "mtu": 1400}"#;
        for ending in ["conf", "json"] {
            let (name, removed, list) = written(&[(&format!("10-net.{ending}"), single), ("20.conflist", BRIDGE)]);
            assert_eq!((name.as_str(), removed), ("10-net.conflist", Some(format!("10-net.{ending}"))));
            let plugins = json!([{"type": "bridge", "mtu": 1400}, ours()]);
            assert_eq!(list, json!({"cniVersion": "0.3.1", "name": "net", "plugins": plugins}));
        }
        // It was written, and its end came before the other was removed.
        let (_, removed, _) = written(&[("10-net.conf", single), ("10-net.conflist", BRIDGE)]);
        assert_eq!(removed.as_deref(), Some("10-net.conf"));
    }

    #[test]
    fn what_runtimes_pass_over_is_passed_over() {
        for broken in ["", "{", "[]", "null", r#"{"plugins": []}"#, r#"{"plugins": {}}"#, r#"{"plugins": [1]}"#] {
            let (name, ..) = written(&[("00-broken.conflist", broken), ("10-net.conflist", BRIDGE)]);
            assert_eq!(name, "10-net.conflist", "{broken}");
            assert_eq!(added(&files(&[("00.conflist", broken)]), &ours()), Change::NoNetwork);
        }
        for name in ["README", "10-net.conflist.bak", ".conduit-cni.tmp", "00-net.txt"] {
            assert_eq!(added(&files(&[(name, BRIDGE)]), &ours()), Change::NoNetwork, "{name}");
        }
        assert_eq!(added(&files(&[("10-net.conf", BRIDGE)]), &ours()), Change::NoNetwork, "it has no type");
        assert_eq!(added(&[], &ours()), Change::NoNetwork);
    }

    #[test]
    fn an_entry_of_before_is_replaced_where_it_is() {
        let mut list: Value = serde_json::from_str(BRIDGE).unwrap();
        let plugins = list["plugins"].as_array_mut().unwrap();
        plugins.insert(1, json!({"type": PLUGIN, "socket": "/old"}));
        plugins.push(json!({"type": PLUGIN, "socket": "/older"}));
        let (_, _, list) = written(&[("10-net.conflist", &list.to_string())]);
        let types: Vec<_> = list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].clone()).collect();
        assert_eq!(types, ["bridge", PLUGIN, "portmap"]);
        assert_eq!(list["plugins"][1], ours());
    }

    #[test]
    fn a_network_of_another_version_is_left_alone() {
        for version in ["0.1.0", "0.2.0", "2.0.0", ""] {
            let list = BRIDGE.replace("1.0.0", version);
            let found = added(&files(&[("10-net.conflist", &list)]), &ours());
            assert_eq!(found, Change::NotSpoken { name: "10-net.conflist".to_owned(), version: version.to_owned() });
        }
        let none = r#"{"name": "net", "type": "bridge"}"#;
        assert!(matches!(added(&files(&[("10-net.conf", none)]), &ours()), Change::NotSpoken { .. }));
    }

    #[test]
    fn it_goes_from_every_file_that_has_it() {
        let (_, _, list) = written(&[("10-net.conflist", BRIDGE)]);
        let list = list.to_string();
        let there = [("10-net.conflist", list.as_str()), ("20-net.conflist", &list), ("30-net.conflist", BRIDGE)];
        let without = removed(&files(&there));
        assert_eq!(
            without.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["10-net.conflist", "20-net.conflist"]
        );
        for (_, text) in without {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), serde_json::from_str::<Value>(BRIDGE).unwrap());
        }
    }
}
