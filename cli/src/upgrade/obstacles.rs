//! What an upgrade would break. Pure.

use conduit_api::VERSION;
use conduit_deploy::{Kept, Values};
use k8s_openapi::{api::apps::v1::StatefulSet, apimachinery::pkg::api::resource::Quantity};
use serde_json::Value;

/// The control plane as it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Installed {
    /// Of the replicas whose votes count.
    pub(super) voters: Vec<String>,
    /// What each of them has claimed of a disk, and of which class; nothing, if they keep everything in their pods.
    pub(super) claim: Option<(Quantity, Option<String>)>,
}

impl Installed {
    /// As far as its StatefulSet says.
    pub(super) fn of(set: &StatefulSet) -> Self {
        let Some(spec) = &set.spec else { return Self::default() };
        let claim = spec.volume_claim_templates.iter().flatten().find_map(|claim| {
            let spec = claim.spec.as_ref()?;
            let size = spec.resources.as_ref()?.requests.as_ref()?.get("storage")?;
            Some((size.clone(), spec.storage_class_name.clone()))
        });
        let voters = (0..spec.replicas.unwrap_or(1)).map(|number| format!("controller-{number}")).collect();
        Self { voters, claim }
    }
}

/// Each in words, with what to do instead.
pub(super) fn obstacles(kept: &Kept, installed: Option<&Installed>, values: &Values) -> Vec<String> {
    let values = values.as_json();
    let installed = installed.map(|installed| [storage(installed, values), replicas(installed, values)]);
    let all = [trust_domain(kept, values), release(&kept.release, VERSION)].into_iter();
    all.chain(installed.into_iter().flatten()).flatten().collect()
}

fn trust_domain(kept: &Kept, values: &Value) -> Option<String> {
    let new = values["identity"]["trustDomain"].as_str().unwrap_or_default();
    (new != kept.trust_domain).then(|| {
        format!(
            "the trust domain is {} and cannot become {new}: every identity in the mesh has it in its name, and every certificate. \
             Give --identity-trust-domain={0}, or install another control plane beside this one",
            kept.trust_domain
        )
    })
}

/// A release reads what the one before it has written, and says nothing that this one does not understand; of all others nothing is promised.
fn release(from: &str, to: &str) -> Option<String> {
    let (Some(old), Some(new)) = (numbers(from), numbers(to)) else {
        return (from != to).then(|| {
            format!("the installation is of {from}, and this command of {to}: nobody can say which of these is the newer one, and whether it reads what the other has written")
        });
    };
    if new < old {
        return Some(format!(
            "the installation is of {from}, and this command of {to}, which may not read what the newer one has written: use the newer command"
        ));
    }
    let skipped = new.0 != old.0 || new.1 > old.1 + 1;
    skipped.then(|| {
        format!("the installation is of {from}, and {to} is not the next release after it: upgrade to each release between them first")
    })
}

/// What comes before a release, or was built of it, counts as it.
fn numbers(version: &str) -> Option<(u64, u64, u64)> {
    let version = version.split(['-', '+']).next()?;
    let mut parts = version.strip_prefix('v')?.split('.').map(|part| part.parse().ok());
    let numbers = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(numbers)
}

/// A StatefulSet's claims are as they were made: the API server takes no change of them.
fn storage(installed: &Installed, values: &Value) -> Option<String> {
    let controller = &values["controller"];
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let (is_claimed, size) = (controller["storage"] == "pvc", text(&controller["storageSize"]));
    let instead = "delete the StatefulSet (kubectl delete statefulset controller --cascade=orphan), so that it is made anew around its pods";
    match &installed.claim {
        Some(_) if !is_claimed => Some(format!(
            "controllers keep the Raft log on persistent volumes, and would lose it all at once in pods: give --raft-storage=pvc. To have it \
             otherwise all the same, {instead}, and restart one replica after the other"
        )),
        None if is_claimed => Some(format!(
            "controllers keep the Raft log in their pods, and persistent volumes are for new StatefulSets only: give --raft-storage=emptydir, or \
             {instead}"
        )),
        Some((claimed, class)) => {
            let new_class = controller["storageClass"].as_str().filter(|class| !class.is_empty());
            if new_class != class.as_deref() {
                return Some(format!(
                    "volumes of the class {} do not become those of another: give controller.storageClass as it was",
                    class.as_deref().unwrap_or("that is the cluster's default")
                ));
            }
            match bytes(&size)?.total_cmp(&bytes(&claimed.0)?) {
                std::cmp::Ordering::Less => Some(format!(
                    "volumes of {} do not become smaller: give --set controller.storageSize={0}",
                    claimed.0
                )),
                std::cmp::Ordering::Greater => Some(format!(
                    "volumes of {} become larger in two steps: change the claims (kubectl edit pvc), and {instead}",
                    claimed.0
                )),
                std::cmp::Ordering::Equal => None,
            }
        }
        None => None,
    }
}

/// As Kubernetes reads a quantity; what it does not read, it refuses itself.
fn bytes(quantity: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 10] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("m", 0.001),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("", 1.0),
    ];
    let (number, factor) =
        SUFFIXES.iter().find_map(|(suffix, factor)| Some((quantity.strip_suffix(suffix)?, factor)))?;
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// Pods go without asking anybody. Those that are still members count for the majority, and there may be none without them.
fn replicas(installed: &Installed, values: &Value) -> Option<String> {
    let replicas = usize::try_from(values["controller"]["replicas"].as_u64()?).ok()?;
    let stays = |name: &&String| {
        let number = name.strip_prefix("controller-").and_then(|number| number.parse::<usize>().ok());
        number.is_some_and(|number| number < replicas)
    };
    let going: Vec<_> = installed.voters.iter().filter(|name| !stays(name)).cloned().collect();
    if going.is_empty() {
        return None;
    }
    let all = installed.voters.len();
    let stay = all - going.len();
    let majority = if stay > all / 2 { "" } else { ", and those that stay are no majority of them" };
    Some(format!(
        "{} of {all} controllers that vote would go ({}){majority}: first remove each (conduit raft members remove NAME), or give \
         --set controller.replicas={all}",
        going.len(),
        going.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn kept(release: &str) -> Kept {
        let injection = format!("trustDomain: cluster.local\nproxyVersion: {release}\n");
        Kept::read(&BTreeMap::from([("injection.yaml".to_owned(), injection)])).unwrap()
    }

    fn running(replicas: usize, claim: Option<&str>) -> Installed {
        let voters = (0..replicas).map(|number| format!("controller-{number}")).collect();
        Installed { voters, claim: claim.map(|size| (Quantity(size.to_owned()), None)) }
    }

    fn found(installed: &Installed, set: &str) -> Vec<String> {
        let mut values = Values::defaults();
        values.assign(set).unwrap();
        obstacles(&kept(VERSION), Some(installed), &values)
    }

    #[test]
    fn what_stays_as_it_is_is_in_nobodys_way() {
        assert_eq!(found(&running(1, Some("1Gi")), "registry=x"), [""; 0]);
        assert_eq!(found(&running(1, Some("1Gi")), "controller.storageSize=1024Mi,controller.replicas=3"), [""; 0]);
        assert_eq!(found(&running(3, None), "controller.storage=emptydir,controller.replicas=3"), [""; 0]);
    }

    #[test]
    fn what_would_break_is_told_with_what_to_do() {
        let pvc = running(3, Some("2Gi"));
        let with_class =
            Installed { claim: pvc.claim.clone().map(|(size, _)| (size, Some("fast".to_owned()))), ..pvc.clone() };
        for (installed, set, says) in [
            (&pvc, "controller.replicas=3,controller.storageSize=1Gi", "volumes of 2Gi do not become smaller"),
            (&pvc, "controller.replicas=3,controller.storageSize=3Gi", "volumes of 2Gi become larger in two steps"),
            (&pvc, "controller.replicas=3,controller.storage=emptydir", "would lose it all at once"),
            (
                &pvc,
                "controller.replicas=3,controller.storageSize=2Gi,controller.storageClass=x",
                "do not become those of another",
            ),
            (
                &with_class,
                "controller.replicas=3,controller.storageSize=2Gi",
                "volumes of the class fast do not become those of another",
            ),
            (&running(3, None), "controller.replicas=3", "persistent volumes are for new StatefulSets only"),
            (
                &pvc,
                "controller.storageSize=2Gi,identity.trustDomain=a.b,controller.replicas=3",
                "the trust domain is cluster.local",
            ),
        ] {
            let found = found(installed, set);
            assert!(found.len() == 1 && found[0].contains(says), "{set}: {found:?}");
        }
    }

    #[test]
    fn nobody_who_votes_goes_unasked() {
        let one = found(&running(3, None), "controller.storage=emptydir");
        assert!(one[0].contains(
            "2 of 3 controllers that vote would go (controller-1, controller-2), and those that stay are no majority"
        ));
        let three = found(&running(5, None), "controller.storage=emptydir,controller.replicas=3");
        assert!(three[0].contains("(controller-3, controller-4): first remove each"), "{three:?}");
        let removed = Installed { voters: vec!["controller-0".to_owned()], claim: None };
        assert_eq!(found(&removed, "controller.storage=emptydir"), [""; 0]);
    }

    #[test]
    fn releases_follow_each_other() {
        for (from, to, is_well) in [
            ("v0.1.0", "v0.1.0", true),
            ("v0.1.0", "v0.2.3", true),
            ("v0.1.0", "v0.3.0", false),
            ("v0.2.0", "v0.1.9", false),
            ("v1.2.0", "v2.0.0", false),
            ("v0.1.0", "v0.3.0-rc.1", false),
            ("v0.3.0-rc.1", "v0.2.0", false),
            ("v0.2.0-rc.1", "v0.2.0+build", true),
            ("mine", "v0.1.0", false),
            ("mine", "mine", true),
        ] {
            assert_eq!(release(from, to).is_none(), is_well, "{from} {to}");
        }
    }
}
