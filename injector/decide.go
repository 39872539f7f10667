package injector

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Input is everything a decision depends on. Nothing of it is changed.
type Input struct {
	// Raw is the pod as the API server sent it.
	Raw []byte
	// Pod is Raw, parsed: see ParsePod.
	Pod *corev1.Pod
	// Namespace is the pod's. Its name counts, not the pod's own metadata.namespace, which may be empty still.
	Namespace *corev1.Namespace
	// Tunnels and Services are those of the namespace.
	Tunnels  []v1alpha1.TenantTunnel
	Services []corev1.Service
	Config   *Config
	// UserNamespacesOn: every node can give a pod a user namespace; see the function of that name.
	UserNamespacesOn bool
}

// ParsePod reads a pod's JSON as far as our vendored types know it.
func ParsePod(raw []byte) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := json.Unmarshal(raw, pod); err != nil {
		return nil, fmt.Errorf("parse pod: %w", err)
	}
	return pod, nil
}

// rule looks at one thing. Rules of a chain may rely on those before them.
type rule func(*candidate) finding

// candidate is a pod on its way through the rules: what is given, and what was derived so far.
type candidate struct {
	Input
	tunnel   *v1alpha1.TenantTunnel
	grant    grant
	names    []Name
	held     []v1alpha1.Port // carried ports that the application holds, on its own Service
	lowPort  bool            // a port below 1024 is or may be carried
	plan     *Plan
	warnings []string
}

// Which pods are looked at, and which tunnel is theirs.
var tunnelRules = []rule{
	namespaceOptedIn,
	gatewayPod,
	knownKeys,
	viaGatewayReads,
	optOut,
	chooseTunnel,
	tunnelLives,
	tunnelAccepted,
	datapathAllowed,
	labelAgrees,
}

// What the pod looks like and what it carries.
var podRules = []rule{
	notStatic,
	notWindows,
	ownNetwork,
	carriedNames,
	portsFree,
	reservedPorts,
	reservedMounts,
	hostAliasesFree,
	lowPortsAllowed,
	ownWork,
	isolated,
}

// Decide says what becomes of a pod.
func Decide(in Input) Decision {
	c := &candidate{Input: in}
	for _, chain := range [][]rule{tunnelRules, podRules} {
		for _, r := range chain {
			if f := r(c); f.found() {
				d := decision(f.reason, f.message)
				d.Warnings, d.Tunnel, d.ViaGateway = c.warnings, c.tunnelName(), goesViaGateway(c, f.reason)
				return d
			}
		}
	}
	d := decision(Injected, fmt.Sprintf("the pod joins tunnel %s, %s", c.tunnel.Name, c.plan))
	d.Warnings, d.Tunnel, d.Plan = c.warnings, c.tunnel.Name, c.plan
	return d
}

func (c *candidate) tunnelName() string {
	if c.tunnel == nil {
		return ""
	}
	return c.tunnel.Name
}

func (c *candidate) warn(format string, args ...any) {
	c.warnings = append(c.warnings, "tenantwire: "+fmt.Sprintf(format, args...))
}

// containers visits every container of the pod but the sidecar, with its field path.
func (c *candidate) containers(visit func(path string, ct *corev1.Container) finding) finding {
	for i := range c.Pod.Spec.InitContainers {
		ct := &c.Pod.Spec.InitContainers[i]
		if ct.Name == ContainerName {
			continue // ownWork looks at it
		}
		if f := visit(fmt.Sprintf("spec.initContainers[%d]", i), ct); f.found() {
			return f
		}
	}
	for i := range c.Pod.Spec.Containers {
		if f := visit(fmt.Sprintf("spec.containers[%d]", i), &c.Pod.Spec.Containers[i]); f.found() {
			return f
		}
	}
	return finding{}
}
