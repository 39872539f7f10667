package injector

// Outcome is what becomes of a pod.
type Outcome string

// The outcomes.
const (
	Inject Outcome = "Inject" // the pod becomes a member
	Skip   Outcome = "Skip"   // the pod is admitted as it is, but for a label where Decision.ViaGateway says so
	Deny   Outcome = "Deny"   // the pod is refused
)

// Reason says why, in one word. It is the metric's label, the log field and the Event's reason at once.
type Reason string

// The reasons.
const (
	Injected Reason = "Injected"

	NamespaceNotOptedIn Reason = "NamespaceNotOptedIn" // the namespace does not carry the opt-in label
	OptedOut            Reason = "OptedOut"            // the pod opted out, and may
	NotSelected         Reason = "NotSelected"         // no tunnel's selector matches the pod
	GatewayPod          Reason = "GatewayPod"          // the pod is a tunnel's gateway

	InvalidPod           Reason = "InvalidPod"           // the pod's JSON does not have the shape of a pod
	UnknownKey           Reason = "UnknownKey"           // a label or annotation under our domain that means nothing
	MalformedAnnotation  Reason = "MalformedAnnotation"  // an annotation or label of ours with a value that cannot be read
	LabelConflict        Reason = "LabelConflict"        // the pod's tunnel label contradicts the decision
	OptOutForbidden      Reason = "OptOutForbidden"      // the pod opted out, and its tunnel does not allow that
	NoTunnel             Reason = "NoTunnel"             // the namespace is opted in and has no tunnel
	UnknownTunnel        Reason = "UnknownTunnel"        // the annotation names a tunnel that does not exist
	AmbiguousTunnel      Reason = "AmbiguousTunnel"      // several tunnels select the pod
	TunnelSelectsNotPod  Reason = "TunnelSelectsNotPod"  // the annotation names a tunnel whose selector does not match
	TunnelDeleting       Reason = "TunnelDeleting"       // the tunnel is going away
	TunnelNotAccepted    Reason = "TunnelNotAccepted"    // the tunnel contradicts another object or itself
	DatapathForbidden    Reason = "DatapathForbidden"    // the tunnel insists on a datapath that the namespace's Pod Security level forbids
	HostNetwork          Reason = "HostNetwork"          // the pod has no network of its own
	StaticPod            Reason = "StaticPod"            // the kubelet runs it whatever we say
	WindowsPod           Reason = "WindowsPod"           // there is no sidecar for Windows
	ReservedName         Reason = "ReservedName"         // a name that injection needs is taken by something else
	ReservedPort         Reason = "ReservedPort"         // a port that the sidecar needs is taken
	ReservedMount        Reason = "ReservedMount"        // another container would see the sidecar's files
	HostAliasConflict    Reason = "HostAliasConflict"    // the pod's own hostAliases redefine a carried name
	PortConflict         Reason = "PortConflict"         // the application and the sidecar need the same port
	SysctlConflict       Reason = "SysctlConflict"       // the pod's own sysctl keeps the sidecar from listening
	InternalError        Reason = "InternalError"        // the decision could not be made; used by the webhook
	ClusterNotObservable Reason = "ClusterNotObservable" // what the decision needs could not be read; used by the webhook
)

// Reasons are all reasons there are, so that each can be counted from the start.
func Reasons() []Reason {
	return []Reason{
		Injected, NamespaceNotOptedIn, OptedOut, NotSelected, GatewayPod, InvalidPod, UnknownKey, MalformedAnnotation, LabelConflict, OptOutForbidden,
		NoTunnel, UnknownTunnel, AmbiguousTunnel, TunnelSelectsNotPod, TunnelDeleting, TunnelNotAccepted, DatapathForbidden, HostNetwork,
		StaticPod, WindowsPod, ReservedName, ReservedPort, ReservedMount, HostAliasConflict, PortConflict, SysctlConflict, InternalError,
		ClusterNotObservable,
	}
}

// OutcomeOf is the outcome that a reason stands for.
func OutcomeOf(r Reason) Outcome {
	switch r {
	case Injected:
		return Inject
	case NamespaceNotOptedIn, OptedOut, NotSelected, GatewayPod:
		return Skip
	}
	return Deny
}

// Decision is what Decide comes to.
type Decision struct {
	Outcome Outcome
	Reason  Reason
	// Message says what was found and, when the pod is refused, what to change. It holds no values of environment variables.
	Message string
	// Warnings are for whoever created the pod.
	Warnings []string
	// Tunnel is the name of the pod's tunnel, once it is known.
	Tunnel string
	// Plan is what to inject; nil unless Outcome is Inject.
	Plan *Plan
	// ViaGateway: the pod is let through without a sidecar, and gets the label by which it may use egress Services and be reached through
	// the gateway; see PatchViaGateway.
	ViaGateway bool
}

func decision(r Reason, message string) Decision {
	return Decision{Outcome: OutcomeOf(r), Reason: r, Message: message}
}

// finding is what a rule says; the zero finding lets the pod pass.
type finding struct {
	reason  Reason
	message string
}

func (f finding) found() bool { return f.reason != "" }
