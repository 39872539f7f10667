package controller

// What the operator may do in the whole cluster. It reads no Secret, runs nothing in pods but gateways, and grants no rights but those
// of a gateway to its lease, which it has to have itself; a test holds the generated role against that. Applying needs patch, and
// create where the object may not exist yet. A gateway's key is made and deleted, never read. The
// admission policy that comes with the role bounds what may be made of all this, egress Services by tenants' names too.
//
// +kubebuilder:rbac:groups=tenantwire.dev,resources=tenanttunnels;tunnelpeers,verbs=get;list;watch
// +kubebuilder:rbac:groups=tenantwire.dev,resources=tenanttunnels/status;tunnelpeers/status;tunnelmembers/status,verbs=patch
// +kubebuilder:rbac:groups=tenantwire.dev,resources=tunnelmembers,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=pods;namespaces;services,verbs=get;list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=create
// +kubebuilder:rbac:groups="",resources=configmaps,resourceNames=tenantwire-ca,verbs=get;list;watch;patch;delete
// +kubebuilder:rbac:groups="",resources=secrets,verbs=create;delete
// +kubebuilder:rbac:groups="",resources=services;serviceaccounts,verbs=create;patch;delete
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=create;patch;delete
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=create;patch;delete
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=roles;rolebindings,verbs=create;patch;delete
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;update;create;patch;delete
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=mutatingwebhookconfigurations,resourceNames=tenantwire,verbs=get;list;watch;update;patch
//
// And in its own namespace: its serving certificate, by name, and the leader's lease.
//
// +kubebuilder:rbac:groups="",resources=secrets,namespace=tenantwire-system,resourceNames=tenantwire-serving-cert,verbs=get;list;watch;update;patch
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,namespace=tenantwire-system,verbs=create
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,namespace=tenantwire-system,resourceNames=tenantwire-operator,verbs=get;update;patch
