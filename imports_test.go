// Package tenantwire_test holds the rules of who may import whom; see docs/architecture.md.
package tenantwire_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tenantwire/tenantwire/"

// rule says what packages below a folder may not import, themselves or through others.
type rule struct {
	folder     string
	without    string // a folder below it that the rule is not for
	transitive bool
	not        []string // import path prefixes
	but        []string // exceptions
	why        string
}

var rules = []rule{
	{"sidecar/", "", true, []string{"k8s.io/", "sigs.k8s.io/", module + "tenant", module + "injector", module + "webhook"}, nil,
		"the data plane must not know Kubernetes"},
	{"tenant/gateway", "", true, []string{module + "tenant/controller", module + "tenant/coordinator", module + "injector", module + "webhook", "sigs.k8s.io/controller-runtime"}, nil,
		"a gateway is data plane, and of Kubernetes knows its lease alone"},
	{"cmd/sidecar", "", true, []string{"k8s.io/", "sigs.k8s.io/", module + "tenant", module + "injector", module + "webhook"}, nil,
		"the data plane must not know Kubernetes"},
	{"tenant/", "tenant/gateway", false, []string{module + "sidecar/"}, []string{module + "sidecar/wire", module + "sidecar/key", module + "sidecar/datapath"},
		"control plane and data plane share a contract, not behaviour"},
	{"tenant/", "tenant/gateway", true, []string{"gvisor.dev/", "golang.zx2c4.com/wireguard/", "github.com/tailscale/wireguard-go/"}, nil,
		"the control plane moves no packets"},
	{"webhook", "", true, []string{"gvisor.dev/", "golang.zx2c4.com/wireguard/", "github.com/tailscale/wireguard-go/"}, nil,
		"the control plane moves no packets"},
	{"injector", "", true, []string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/rest", "sigs.k8s.io/controller-runtime/pkg/client", module + "webhook",
		module + "tenant/controller", module + "tenant/coordinator"}, nil,
		"what decides is pure"},
	{"sidecar/wire", "", true, []string{module + "sidecar/"}, []string{module + "sidecar/wire", module + "sidecar/key", module + "sidecar/datapath"},
		"the contract has no behaviour"},
	{"cli", "", true, []string{module, "gvisor.dev/", "golang.zx2c4.com/wireguard/", "github.com/tailscale/wireguard-go/"},
		[]string{module + "cli", module + "cli/doctor", module + "injector", module + "tenant", module + "tenant/v1alpha1", module + "sidecar/wire", module + "sidecar/key", module + "sidecar/datapath", module + "sidecar/capture"},
		"a command line has its user's rights alone, and does what it does through the API; what the webhook would decide it may work out"},
}

// pure packages import no client.
var pure = []string{"tenant", "tenant/v1alpha1", "injector"}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func below(path, folder string) bool {
	path = strings.TrimPrefix(path, module)
	return path == strings.TrimSuffix(folder, "/") || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

func TestImportRules(t *testing.T) {
	all := list(t)
	for _, r := range rules {
		matched := false
		for _, p := range all {
			if !below(p.ImportPath, r.folder) || r.without != "" && below(p.ImportPath, r.without) {
				continue
			}
			matched = true
			imports := p.Imports
			if r.transitive {
				imports = p.Deps
			}
			for _, i := range imports {
				if hasPrefix(i, r.not) && !slices.Contains(r.but, i) {
					t.Errorf("%s imports %s: %s", p.ImportPath, i, r.why)
				}
			}
		}
		if !matched {
			t.Errorf("no package below %s: the rule guards nothing", r.folder)
		}
	}
}

func TestPurePackagesImportNoClient(t *testing.T) {
	for _, p := range list(t) {
		if !slices.Contains(pure, strings.TrimPrefix(p.ImportPath, module)) {
			continue
		}
		for _, i := range p.Imports {
			if hasPrefix(i, []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime", "net/http"}) {
				t.Errorf("%s imports %s: what decides is pure", p.ImportPath, i)
			}
		}
	}
}

// Each command imports its one package, so that what it does can be tested without it.
func TestCommandsAreThin(t *testing.T) {
	for _, p := range list(t) {
		if !strings.HasPrefix(p.ImportPath, module+"cmd/") {
			continue
		}
		var ours []string
		for _, i := range p.Imports {
			if strings.HasPrefix(i, module) {
				ours = append(ours, i)
			}
		}
		if len(ours) > 1 {
			t.Errorf("%s imports %d packages of ours, want one: %v", p.ImportPath, len(ours), ours)
		}
	}
}

func hasPrefix(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}
