package install

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func kustomize(t *testing.T, folder string) (map[string]object, []string) {
	t.Helper()
	m, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(manifests, folder))
	if err != nil {
		t.Fatalf("kustomize build %s: %v", folder, err)
	}
	stream, err := m.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, r := range m.Resources() {
		order = append(order, r.GetKind()+"/"+r.GetName())
	}
	return objects(t, stream), order
}

// kubectl apply -k installs the same as kubectl apply -f, the namespace first and the webhook last.
func TestKustomizeIsInstall(t *testing.T) {
	got, order := kustomize(t, ".")
	if diff := changes(objects(t, read(t, "install.yaml")), got); len(diff) > 0 {
		t.Errorf("kustomize differs from install.yaml:\n%s", strings.Join(diff, "\n"))
	}
	if order[0] != "Namespace/"+system || order[len(order)-1] != "MutatingWebhookConfiguration/tenantwire" {
		t.Errorf("order: %v", order)
	}
}

// The example of an overlay takes the images from elsewhere, all three, and changes nothing else.
func TestKustomizeOverlay(t *testing.T) {
	before, _ := kustomize(t, ".")
	after, _ := kustomize(t, "../docs/examples/kustomize")
	if got, want := flat(changes(before, after)), []string{container + "args.[]", container + "image"}; !slices.Equal(got, want) {
		t.Errorf("changed: %v, want %v", got, want)
	}
	containers, _ := field(after["Deployment/tenantwire-operator"], "spec", "template", "spec", "containers").([]any)
	args, _ := field(containers[0], "args").([]any)
	for _, want := range []string{"--sidecar-image=registry.example/tenantwire/sidecar:v1", "--gateway-image=registry.example/tenantwire/gateway:v1"} {
		if !slices.Contains(args, any(want)) {
			t.Errorf("no argument %s among %v", want, args)
		}
	}
	if image := field(containers[0], "image"); image != "registry.example/tenantwire/operator:v1" {
		t.Errorf("image %v", image)
	}
}
