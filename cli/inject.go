package cli

import (
	"cmp"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/injector"
)

// injection is what inject is asked for. Nothing of it is asked of a cluster.
type injection struct {
	files     []string // whose pods are decided on
	around    []string // tunnels, Services and namespaces besides
	namespace string   // of objects that name none
	config    injector.Config
}

func (cs *commands) inject() *cobra.Command {
	j := injection{config: injector.DefaultConfig()}
	level, tun, operator := string(j.config.PodSecurityDefault), "", "tenantwire-system"
	c := &cobra.Command{
		Use:   "inject -f FILE",
		Short: "Say what the webhook would make of manifests, without a cluster",
		Long: `Decides on the pods of manifests as the webhook does, and prints the objects with what it would put into their pods. Pods, and templates of pods in
Deployments, Jobs and so on, are decided on, each with a line on the standard error that says the outcome and the reason; all other objects
are printed as they are. What would be refused is not printed.

TenantTunnels, Services and Namespaces count, of the same files or of --tunnel. Without its Namespace, a namespace is taken for one that is opted
in. Kubernetes is not asked: what it would refuse by its own rules is not noticed, and defaults of the API are not filled in.

The exit code is 0 if no pod would be refused, 3 if one would be, 1 if a file cannot be read, and 2 if the command line is wrong.`,
		Example: `  kubectl tenantwire inject -f deployment.yaml --tunnel tunnel.yaml
  helm template shop | kubectl tenantwire -n acme inject -f - --tunnel tunnel.yaml > /dev/null`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			if len(j.files) == 0 {
				return usagef("--filename: say which manifests, or - for the standard input")
			}
			j.namespace = "default"
			if ns := cs.config.Namespace; ns != nil && *ns != "" {
				j.namespace = *ns
			}
			j.config.PodSecurityDefault, j.config.TUNResource = injector.PodSecurityLevel(level), corev1.ResourceName(tun)
			j.config.CoordinatorURL = "https://tenantwire-coordinator." + operator + ".svc"
			if err := j.config.Validate(); err != nil {
				return usageError{err}
			}
			return cs.injectAll(&j)
		},
	}
	f := c.Flags()
	f.StringSliceVarP(&j.files, "filename", "f", nil, "manifests, YAML or JSON; - is the standard input")
	f.StringSliceVar(&j.around, "tunnel", nil, "files with TenantTunnels, Services and Namespaces that count and are not printed")
	f.StringVar(&j.config.Image, "sidecar-image", "ghcr.io/tenantwire/sidecar:dev", "the operator's --sidecar-image")
	f.StringVar(&j.config.ClusterDomain, "cluster-domain", j.config.ClusterDomain, "the operator's --cluster-domain")
	f.StringVar(&level, "pod-security-default", level, "the operator's --pod-security-default")
	f.StringVar(&tun, "tun-resource", tun, "the operator's --tun-resource")
	f.BoolVar(&j.config.TUNForAuto, "tun-for-auto", false, "the operator's --tun-for-auto")
	f.StringVar(&operator, "operator-namespace", operator, "the operator's namespace")
	j.config.GatewayImage = "ghcr.io/tenantwire/gateway:dev" // of no pod here
	return c
}

func (cs *commands) injectAll(j *injection) error {
	var printed, around []manifest
	for _, list := range []struct {
		files []string
		into  *[]manifest
	}{{j.files, &printed}, {j.around, &around}} {
		for _, name := range list.files {
			all, err := cs.readManifests(name, j.namespace)
			if err != nil {
				return err
			}
			*list.into = append(*list.into, all...)
		}
	}
	w, err := newSurroundings(append(around, printed...))
	if err != nil {
		return err
	}
	denied := 0
	for i := range printed {
		m := &printed[i]
		d, err := m.inject(w, &j.config)
		if err != nil {
			return fmt.Errorf("%s: %w", m.from, err)
		}
		if d != nil {
			cs.explain(m, d)
		}
		if d != nil && d.Outcome == injector.Deny {
			denied++
			continue
		}
		if err := m.print(cs.Out); err != nil {
			return err
		}
	}
	if denied > 0 {
		cs.say("%d would be refused", denied)
		return answer{ExitDenied}
	}
	return nil
}

// explain says what becomes of a pod, and what whoever creates it is warned of.
func (cs *commands) explain(m *manifest, d *injector.Decision) {
	cs.say("%s: %s (%s): %s", m, d.Outcome, d.Reason, d.Message)
	for _, w := range d.Warnings {
		cs.say("%s: warning: %s", m, w)
	}
}

func (cs *commands) readManifests(name, namespace string) ([]manifest, error) {
	if name == "-" {
		return parseManifests("standard input", cs.In, namespace)
	}
	f, err := os.Open(name) //nolint:gosec // the user says which
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	defer f.Close()
	return parseManifests(name, f, namespace)
}

// String names the object as others see it.
func (m *manifest) String() string {
	return fmt.Sprintf("%s %s/%s", m.kind, m.namespace, cmp.Or(m.name, "?"))
}
