//! How people are let into a control plane that is in Kubernetes: by Kubernetes.
//!
//! The public API is an extension of the cluster's API server, in a group of its own. Each method is a resource there, so that who may call it
//! is for the cluster's own rules to say, and who calls is known however people sign in:
//!
//! ```text
//!   POST /apis/conduit.api.conduit.io/v1alpha1/watch/namespaces/emojivoto/stat     verb `watch`: looks, at one namespace
//!   POST /apis/conduit.api.conduit.io/v1alpha1/watch/raftstatus                    verb `watch`: looks
//!   POST /apis/conduit.api.conduit.io/v1alpha1/proxy/tappayload                    verb `proxy`: looks at what people send each other
//!   POST /apis/conduit.api.conduit.io/v1alpha1/carotate                            verb `create`: changes something
//!   GET  /apis/conduit.api.conduit.io/v1alpha1/watch/live?view=overview            verb `watch`: all that a page of the dashboard shows
//! ```
//!
//! What is posted, and answered, is gRPC-Web, which needs nothing of HTTP that a proxy on the way may take away, or JSON.
//! <https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/apiserver-aggregation/>

use prost::Message as _;
use tonic::{Extensions, Request};

use crate::proto::public::{
    EdgesRequest, EndpointsRequest, IdentityRequest, ListAlertsRequest, ListObjectivesRequest, PodsRequest,
    ProxyMetricsRequest, ResourceSelection, SeriesRequest, StatRequest, TapRequest, api_server,
};

/// Of the group.
pub const API_VERSION: &str = "v1alpha1";

/// What a control plane says of a resource that it does not have: it is of another release than who asks.
pub const NO_SUCH_RESOURCE: &str = "this release of Conduit's control plane has no such resource";

/// What a control plane says at the end of an answer that was long enough: who goes on asking may do so if the cluster still lets them.
pub const ASK_AGAIN: &str = "this has gone on for half an hour: ask again";

/// A method of the public API, as Kubernetes sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// As in the service's definition. The resource is called the same, in small letters.
    pub name: &'static str,
    /// Nothing is different afterwards.
    pub looks: bool,
    /// It may be asked about one namespace, with rights in that one alone.
    pub namespaced: bool,
    /// It shows what people send each other: who may `watch` everything has not been given that. `create` would not do, since Kubernetes ends what
    /// is so called after a minute; what is called `watch` or `proxy` may last.
    /// <https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go>
    pub discloses: bool,
}

const fn looks(name: &'static str) -> Method {
    Method { name, looks: true, namespaced: false, discloses: false }
}

const fn looks_at_namespace(name: &'static str) -> Method {
    Method { namespaced: true, ..looks(name) }
}

const fn discloses_of_namespace(name: &'static str) -> Method {
    Method { discloses: true, ..looks_at_namespace(name) }
}

const fn changes(name: &'static str) -> Method {
    Method { looks: false, ..looks(name) }
}

/// All of them.
pub const METHODS: &[Method] = &[
    looks("Version"),
    looks("SelfCheck"),
    looks("RaftStatus"),
    changes("RemoveMember"),
    // It has the sealed root, and everything that the mesh knows of itself.
    changes("SaveSnapshot"),
    changes("RestoreSnapshot"),
    changes("TransferLeader"),
    changes("Recover"),
    looks("Wait"),
    looks("History"),
    changes("Apply"),
    looks("Routes"),
    changes("Rollback"),
    looks("CaStatus"),
    changes("CaRotate"),
    changes("CaDeny"),
    changes("CaRevoke"),
    changes("CaFederate"),
    looks("CaExport"),
    looks_at_namespace("Identity"),
    looks_at_namespace("ProxyMetrics"),
    looks("ControllerMetrics"),
    looks_at_namespace("Endpoints"),
    // What is reached may be in any namespace.
    looks("Explain"),
    looks_at_namespace("Stat"),
    looks_at_namespace("Edges"),
    looks_at_namespace("Series"),
    // Alerts wake people: who sets what they are for is who administers the mesh.
    changes("SetObjective"),
    changes("RemoveObjective"),
    looks_at_namespace("ListObjectives"),
    looks_at_namespace("ListAlerts"),
    looks_at_namespace("Pods"),
    looks_at_namespace("Tap"),
    discloses_of_namespace("TapPayload"),
];

/// What a page of the dashboard shows, by one stream instead of a method for each part: who may have it may have all of these.
pub const LIVE: &str = "live";

/// The API group of the control plane in `namespace`: there may be several in a cluster.
pub fn group(namespace: &str) -> String {
    format!("{namespace}.api.conduit.io")
}

/// Where all of it is, for the control plane in `namespace`.
pub fn base(namespace: &str) -> String {
    format!("/apis/{}/{API_VERSION}", group(namespace))
}

/// Whether [`LIVE`] is asked for of the control plane in `control_plane`, and of which namespace.
pub fn is_live(path: &str, control_plane: &str) -> Option<Option<String>> {
    let rest = path.strip_prefix(&base(control_plane))?.strip_prefix("/watch/")?.strip_suffix(LIVE)?;
    let Some(rest) = rest.strip_prefix("namespaces/") else { return rest.is_empty().then_some(None) };
    let namespace = rest.strip_suffix('/')?;
    (!namespace.is_empty() && !namespace.contains('/')).then(|| Some(namespace.to_owned()))
}

impl Method {
    /// As rules name it.
    pub fn resource(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    /// As rules name what it does.
    pub fn verb(&self) -> &'static str {
        match (self.looks, self.discloses) {
            (_, true) => "proxy",
            (true, false) => "watch",
            (false, false) => "create",
        }
    }

    /// By its path in gRPC.
    pub fn of_grpc(path: &str) -> Option<&'static Self> {
        let (service, name) = path.strip_prefix('/')?.split_once('/')?;
        METHODS.iter().find(|method| service == api_server::SERVICE_NAME && method.name == name)
    }

    /// Its path in gRPC.
    pub fn to_grpc(&self) -> String {
        format!("/{}/{}", api_server::SERVICE_NAME, self.name)
    }
}

/// A call as Kubernetes has let it in.
#[derive(Debug, PartialEq, Eq)]
pub struct Access {
    /// Which one.
    pub method: &'static Method,
    /// About which namespace; `None` about all.
    pub namespace: Option<String>,
}

impl Access {
    /// Where it is posted to, for the control plane in `control_plane`.
    pub fn to_path(&self, control_plane: &str) -> String {
        // Kubernetes takes what is so called for a watch, or a proxy, which may last for hours.
        let verb = if self.method.looks { format!("{}/", self.method.verb()) } else { String::new() };
        let namespace = self.namespace.as_ref().map_or(String::new(), |namespace| format!("namespaces/{namespace}/"));
        format!("{}/{verb}{namespace}{}", base(control_plane), self.method.resource())
    }

    /// What was posted there. A path is let in by other rules than the one that it is like: only what [`Access::to_path`] makes is read.
    pub fn of_path(path: &str, control_plane: &str) -> Option<Self> {
        let parts: Vec<_> = path.split('/').collect();
        let (namespace, resource) = match parts.as_slice() {
            [.., "namespaces", namespace, resource] => (Some((*namespace).to_owned()), *resource),
            [.., resource] => (None, *resource),
            [] => return None,
        };
        let method = METHODS.iter().find(|method| method.resource() == resource)?;
        let access = Self { method, namespace };
        let in_one = access.namespace.as_ref().is_none_or(|namespace| method.namespaced && !namespace.is_empty());
        (in_one && access.to_path(control_plane) == path).then_some(access)
    }
}

/// The one namespace that a question is about; of all, if it is empty.
pub trait AboutNamespace {
    /// Its name.
    fn namespace(&self) -> &str;
}

impl AboutNamespace for ResourceSelection {
    fn namespace(&self) -> &str {
        // Namespaces are in none.
        if self.kind == "namespace" { &self.name } else { &self.namespace }
    }
}

impl<T: AboutNamespace> AboutNamespace for Option<T> {
    fn namespace(&self) -> &str {
        self.as_ref().map_or("", T::namespace)
    }
}

macro_rules! about_namespace {
    ($($($method:literal),+ $request:ty: |$asked:ident| $namespace:expr;)*) => {
        $(impl AboutNamespace for $request {
            fn namespace(&self) -> &str {
                let $asked = self;
                $namespace
            }
        })*

        /// The namespace that the encoded question of the method `name` is about; none if it is about all, or the method about none.
        fn namespace_of(name: &str, question: &[u8]) -> Option<String> {
            let namespace = match name {
                $($($method)|+ => <$request>::decode(question).ok()?.namespace().to_owned(),)*
                _ => return None,
            };
            (!namespace.is_empty()).then_some(namespace)
        }
    };
}

about_namespace! {
    "Stat" StatRequest: |stat| stat.selector.namespace();
    "Series" SeriesRequest: |series| series.selector.namespace();
    "Edges" EdgesRequest: |edges| &edges.namespace;
    "Tap", "TapPayload" TapRequest: |tap| tap.target.namespace();
    "Pods" PodsRequest: |pods| &pods.namespace;
    "ListObjectives" ListObjectivesRequest: |list| &list.namespace;
    "ListAlerts" ListAlertsRequest: |list| &list.namespace;
    "Identity" IdentityRequest: |identity| &identity.namespace;
    "ProxyMetrics" ProxyMetricsRequest: |metrics| &metrics.namespace;
    "Endpoints" EndpointsRequest: |endpoints| &endpoints.namespace;
}

/// What goes with a call until it has a path.
#[derive(Clone, Debug)]
struct About(String);

/// A call that may be let in by rights in the namespace that `message` is about.
pub fn about<T: AboutNamespace>(message: T) -> Request<T> {
    let namespace = message.namespace().to_owned();
    let mut request = Request::new(message);
    if !namespace.is_empty() {
        request.extensions_mut().insert(About(namespace));
    }
    request
}

/// The same of a question of the method `name` that is encoded already.
pub fn about_encoded<T: AsRef<[u8]>>(name: &str, question: T) -> Request<T> {
    let namespace = namespace_of(name, question.as_ref());
    let mut request = Request::new(question);
    if let Some(namespace) = namespace {
        request.extensions_mut().insert(About(namespace));
    }
    request
}

/// The namespace that [`about`] has said.
pub fn said_namespace(extensions: &Extensions) -> Option<String> {
    extensions.get::<About>().map(|About(namespace)| namespace.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::proto::DESCRIPTORS;

    #[test]
    fn every_method_is_a_resource() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
        let public = files.iter().find(|file| file.package() == "conduit.public.v1").unwrap();
        let defined: BTreeSet<_> = public.service[0].method.iter().map(|method| method.name()).collect();
        let known: BTreeSet<_> = METHODS.iter().map(|method| method.name).collect();
        assert_eq!(known, defined);
        assert_eq!(known.len(), METHODS.len());
        assert!(METHODS.iter().all(|method| method.resource() != LIVE));
    }

    #[test]
    fn what_a_call_is_posted_to_is_read_again() {
        for method in METHODS {
            let namespaces = [None, Some("emojivoto".to_owned())];
            for namespace in namespaces.into_iter().filter(|namespace| namespace.is_none() || method.namespaced) {
                let access = Access { method, namespace };
                let path = access.to_path("conduit");
                assert_eq!(Access::of_path(&path, "conduit"), Some(access), "{path}");
                assert_eq!(Access::of_path(&path, "another"), None, "{path}");
            }
            assert_eq!(Method::of_grpc(&method.to_grpc()), Some(method));
        }
    }

    #[test]
    fn whoever_may_look_at_one_namespace_has_pages_of_it() {
        let base = "/apis/conduit.api.conduit.io/v1alpha1";
        for (path, asked) in [
            ("/watch/live", Some(None)),
            ("/watch/namespaces/shop/live", Some(Some("shop".to_owned()))),
            ("/live", None),
            ("/watch/namespaces/live", None),
            ("/watch/namespaces//live", None),
            ("/watch/namespaces/shop/x/live", None),
            ("/watch/shop/live", None),
            ("/watch/olive", None),
            ("/watch/live/", None),
        ] {
            assert_eq!(is_live(&format!("{base}{path}"), "conduit"), asked, "{path}");
        }
        assert_eq!(is_live(&format!("{base}/watch/live"), "another"), None);
    }

    #[test]
    fn every_question_about_a_namespace_says_so() {
        for method in METHODS {
            // `namespace`, and a selection's, have different numbers in different messages: both are tried.
            let selection = ResourceSelection { kind: "pod".into(), namespace: "shop".into(), ..Default::default() };
            let questions = [
                TapRequest { target: Some(selection), ..TapRequest::default() }.encode_to_vec(),
                PodsRequest { namespace: "shop".into(), ..PodsRequest::default() }.encode_to_vec(),
                EdgesRequest { namespace: "shop".into(), ..EdgesRequest::default() }.encode_to_vec(),
            ];
            let says = questions.iter().any(|question| namespace_of(method.name, question).as_deref() == Some("shop"));
            assert_eq!(says, method.namespaced, "{}", method.name);
        }
    }

    #[test]
    fn who_may_watch_everything_sees_no_messages() {
        let disclosing: Vec<_> =
            METHODS.iter().filter(|method| method.verb() == "proxy").map(Method::resource).collect();
        assert_eq!(disclosing, ["tappayload"]);
        let method = Method::of_grpc("/conduit.public.v1.Api/TapPayload").unwrap();
        let path = Access { method, namespace: Some("shop".to_owned()) }.to_path("conduit");
        assert_eq!(path, "/apis/conduit.api.conduit.io/v1alpha1/proxy/namespaces/shop/tappayload");
    }

    #[test]
    fn only_what_the_rules_were_asked_about_is_let_in() {
        let base = "/apis/conduit.api.conduit.io/v1alpha1";
        for path in [
            "",
            "/",
            "stat",
            // The rules were asked whether it may be created, not watched.
            "/stat",
            "/watch/carotate",
            "/watch/tappayload",
            "/watch/namespaces/shop/tappayload",
            "/proxy/namespaces/shop/tap",
            "/tappayload",
            // Of a namespace, and about the whole mesh.
            "/namespaces/shop/carotate",
            "/watch/namespaces/shop/raftstatus",
            // Kubernetes would take what follows for a name.
            "/watch/stat/x",
            "/watch/namespaces/shop/stat/",
            "/watch/namespaces//stat",
            "/watch/namespaces/shop/namespaces/other/stat",
            "/watch//stat",
            "/watch/Stat",
        ] {
            assert_eq!(Access::of_path(&format!("{base}{path}"), "conduit"), None, "{path}");
        }
    }

    #[test]
    fn what_a_question_is_about_goes_with_it() {
        let selection = |kind: &str, namespace: &str, name: &str| ResourceSelection {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        for (selector, namespace) in [
            (selection("deployment", "emojivoto", "web"), Some("emojivoto")),
            (selection("deployment", "", "web"), None),
            (selection("namespace", "", "emojivoto"), Some("emojivoto")),
            (selection("namespace", "", ""), None),
        ] {
            let request = about(StatRequest { selector: Some(selector), ..StatRequest::default() });
            assert_eq!(said_namespace(request.extensions()).as_deref(), namespace);
        }
    }
}
