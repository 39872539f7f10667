package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/test/kit"
)

// needles are the forms in which a key may have got somewhere: bytes, the usual texts of them, and each of these inside something
// that was put into base64 as a whole, as Secrets and protobufs are.
type needles struct {
	owner string
	forms map[string][]byte
}

func needlesOf(owner string, k []byte) needles {
	text := base64.StdEncoding.EncodeToString(k)
	n := needles{owner, map[string][]byte{
		"bytes": k, "base64": []byte(text)[:42], "base64url": []byte(base64.URLEncoding.EncodeToString(k))[:42],
		"hex": []byte(hex.EncodeToString(k)), "HEX": bytes.ToUpper([]byte(hex.EncodeToString(k))),
		// What is left when an error quotes a part of it: enough to be no accident.
		"first half in base64": []byte(text)[:21], "first half in hex": []byte(hex.EncodeToString(k[:16])),
	}}
	var decimal, listed, traced []string
	for _, b := range k[:10] { // a traceback of Go prints ten words of an argument
		decimal, listed, traced = append(decimal, strconv.Itoa(int(b))), append(listed, strconv.Itoa(int(b))), append(traced, fmt.Sprintf("%#x", b))
	}
	n.forms["%v"], n.forms["JSON list"] = []byte(strings.Join(decimal, " ")), []byte(strings.Join(listed, ","))
	n.forms["traceback"] = []byte(strings.Join(traced[:5], ", "))
	for name, form := range map[string][]byte{"bytes": k, "base64": []byte(text), "hex": n.forms["hex"]} {
		for shift := range 3 {
			e := base64.StdEncoding.EncodeToString(append(make([]byte, shift), form...))
			n.forms[fmt.Sprintf("base64 of %s, shifted by %d", name, shift)] = []byte(e)[(shift*8+5)/6 : len(e)-4]
		}
	}
	return n
}

// in names the forms that b holds.
func (n needles) in(b []byte) []string {
	var found []string
	for name, form := range n.forms {
		if bytes.Contains(b, form) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// place is somewhere a key might have got to.
type place struct {
	what string
	text []byte
}

// No private key but where it belongs: the sidecar's memory and its memory-backed volume. Every place is shown to be searched well
// by a key that the test itself put there. Breaks when a key gets into an object, a log, a metric, an error, a crash or a disk.
func TestInvariant1NoPrivateKeyLeavesItsSidecar(t *testing.T) {
	kit.NeedNodes(t)
	system := &kit.Namespace{Cluster: cluster, T: t, Name: kit.SystemNamespace}
	t.Cleanup(func() {
		if err := cluster.Install(context.Background()); err != nil {
			t.Errorf("bring the operator back: %v", err)
		}
	})
	kit.Change(system, kit.OperatorName, &appsv1.Deployment{}, func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Args = append(d.Spec.Template.Spec.Containers[0].Args, "--log-level=debug")
	})
	system.WaitRollout(kit.OperatorName)
	n := invNewTenant(t, cluster)

	canary := needlesOf("the canary", canaryBytes())
	n.publish(t, canary)
	secret := n.exercise(t)

	var places []place
	places = append(places, objects(t)...)
	places = append(places, logs(t)...)
	places = append(places, metrics(t, n)...)
	places = append(places, processes(t, n)...)
	canaryIn := map[string]bool{}
	kinds := map[string]int{}
	for _, p := range places {
		kind, _, _ := strings.Cut(p.what, " ")
		kinds[kind]++
		for _, k := range secret {
			if found := k.in(p.text); len(found) > 0 {
				t.Errorf("the private key of %s is in %s, as %v", k.owner, p.what, found)
			}
		}
		if len(canary.in(p.text)) > 0 {
			canaryIn[kind] = true
		}
	}
	onDisk(t, secret, canary)
	t.Logf("searched for %d keys in %v", len(secret), kinds)
	for _, kind := range []string{"object", "log", "process"} {
		if !canaryIn[kind] {
			t.Errorf("the canary was not found in any %s: the test shows nothing", kind)
		}
	}
	for _, p := range n.web { // metrics hold no canary; they hold the public keys
		own := n.Member(p.Name).Status.PublicKey
		if !slices.ContainsFunc(places, func(p place) bool {
			return strings.HasPrefix(p.what, "metric ") && bytes.Contains(p.text, []byte(own))
		}) {
			t.Errorf("no metric names the public key of %s: the test shows nothing", p.Name)
		}
	}
}

// canaryBytes are a key that nobody uses.
func canaryBytes() []byte {
	k := key.NewPreshared()
	b, _ := hex.DecodeString(k.Hex())
	return b
}

// publish puts the canary into an object, an event, a log and a command line.
func (n *invTenant) publish(t *testing.T, canary needles) {
	t.Helper()
	text := string(canary.forms["hex"])
	n.Create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "canary"}, BinaryData: map[string][]byte{"key": canary.forms["bytes"]}},
		&corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "canary"}, InvolvedObject: corev1.ObjectReference{Namespace: n.Name}, Message: text},
		invPod("canary-runs", "get", "-n", "1000000000", "-interval", "1s", "http://127.0.0.1:1/"+text))
	n.WaitReady("canary-runs")
}

// exercise makes everything happen that a key is used in, and what goes wrong around it. It returns the keys.
func (n *invTenant) exercise(t *testing.T) []needles {
	t.Helper()
	var out []needles
	for _, p := range n.pods() {
		k, err := base64.StdEncoding.DecodeString(strings.TrimSpace(invSidecarFile(t, &p, "/var/lib/tenantwire/key")))
		if err != nil || len(k) != key.Size {
			t.Fatalf("the key file of %s holds no key", p.Name)
		}
		out = append(out, needlesOf(p.Name, k))
	}
	n.App("client", "get", "-n", "5", "http://web/")

	// A crash: the Go runtime prints the stacks of all goroutines, with their arguments.
	first := n.web[0]
	pid := invPID(t, &first, kit.Sidecar)
	kit.NodeExec(t, first.Spec.NodeName, "kill", "-ABRT", strconv.Itoa(pid))
	after := n.WaitSidecarRestart(&first)
	last := kit.SidecarStatus(after).LastTerminationState.Terminated
	if last == nil || last.ExitCode != 2 {
		t.Errorf("the sidecar's end by SIGABRT: %+v, want exit code 2: anything else left it to the kernel, which writes core files", last)
	}

	// A key file that cannot be read back: the error must not quote it.
	victim := *n.client
	pid = invPID(t, &victim, kit.Sidecar)
	file := fmt.Sprintf("/proc/%d/root/var/lib/tenantwire/key", pid)
	kit.NodeExec(t, victim.Spec.NodeName, "sh", "-c", fmt.Sprintf("printf x >>%s && kill -KILL %d", file, pid))
	kit.Eventually(t, kit.Deadline, "complaint of the sidecar with a broken key file", func() error {
		text, err := n.Logs(t.Context(), victim.Name, corev1.PodLogOptions{Container: kit.Sidecar})
		if err == nil && !strings.Contains(text, "private key") {
			err = fmt.Errorf("its log is %q", text)
		}
		return err
	})
	return out
}

// objects are all that the API server lists, kind by kind.
func objects(t *testing.T) []place {
	t.Helper()
	lists, err := cluster.Kube.Discovery().ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	var out []place
	for _, l := range lists {
		prefix := "/apis/" + l.GroupVersion
		if l.GroupVersion == "v1" {
			prefix = "/api/v1"
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			b, err := cluster.Kube.Discovery().RESTClient().Get().AbsPath(prefix, r.Name).DoRaw(t.Context())
			if err != nil {
				t.Errorf("list %s: %v", r.Name, err)
			}
			out = append(out, place{"object of kind " + r.Kind, b})
		}
	}
	if len(out) < 30 {
		t.Errorf("only %d kinds can be listed: the test shows nothing", len(out))
	}
	return out
}

// logs are those of every container of every pod, and of the ones before them.
func logs(t *testing.T) []place {
	t.Helper()
	var pods corev1.PodList
	if err := cluster.List(t.Context(), &pods); err != nil {
		t.Fatal(err)
	}
	var out []place
	for _, p := range pods.Items {
		n := &kit.Namespace{Cluster: cluster, T: t, Name: p.Namespace}
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			for _, previous := range []bool{false, true} {
				text, err := n.Logs(t.Context(), p.Name, corev1.PodLogOptions{Container: s.Name, Previous: previous})
				if err == nil {
					out = append(out, place{fmt.Sprintf("log of %s/%s/%s", p.Namespace, p.Name, s.Name), []byte(text)})
				}
			}
		}
	}
	if !slices.ContainsFunc(out, func(p place) bool { return bytes.Contains(p.text, []byte("SIGABRT")) }) {
		t.Error("no log holds the traceback of the sidecar that was ended by SIGABRT: the test shows nothing")
	}
	if !slices.ContainsFunc(out, func(p place) bool {
		return strings.HasPrefix(p.what, "log of "+kit.SystemNamespace) && bytes.Contains(p.text, []byte(`"level":"DEBUG"`))
	}) {
		t.Error("the operator logs nothing at debug level: the test shows nothing")
	}
	return out
}

// metrics are the pages of all sidecars that answer, and of the operator.
func metrics(t *testing.T, n *invTenant) []place {
	t.Helper()
	var out []place
	for _, p := range n.web {
		text, err := n.Fetch(t.Context(), n.Name, p.Name, injector.HealthPort, "metrics")
		if err != nil {
			t.Errorf("metrics of %s: %v", p.Name, err)
		}
		out = append(out, place{"metric of " + p.Name, []byte(text)})
	}
	system := &kit.Namespace{Cluster: cluster, T: t, Name: kit.SystemNamespace}
	for _, p := range system.Pods("") {
		text, err := n.Fetch(t.Context(), kit.SystemNamespace, p.Name, 8080, "metrics")
		if err != nil || !strings.Contains(text, "tenantwire_") {
			t.Errorf("metrics of %s: %v", p.Name, err)
		}
		out = append(out, place{"metric of " + p.Name, []byte(text)})
	}
	return out
}

// processes are what everybody on the node sees of one: its command line, and what its user sees: its environment.
func processes(t *testing.T, n *invTenant) []place {
	t.Helper()
	var out []place
	for _, node := range invNodes(t, cluster) {
		text := kit.NodeExec(t, node, "sh", "-c", "for p in /proc/[0-9]*; do cat $p/cmdline $p/environ 2>/dev/null; echo; done; true")
		out = append(out, place{"process of " + node, []byte(text)})
	}
	for _, p := range n.web {
		pod := &corev1.Pod{}
		n.Read(p.Name, pod)
		pid := invPID(t, pod, kit.Sidecar)
		limits := kit.NodeExec(t, p.Spec.NodeName, "cat", fmt.Sprintf("/proc/%d/limits", pid))
		for line := range strings.Lines(limits) {
			if f := strings.Fields(strings.TrimPrefix(line, "Max core file size")); strings.HasPrefix(line, "Max core file size") && (f[0] != "0" || f[1] != "0") {
				t.Errorf("the sidecar of %s may write core files: %s", p.Name, line)
			}
		}
		// The files in /proc of a process that is not dumpable belong to root. Such a process leaves no core even where a program
		// collects them, which does not ask for the limit, and no process of the same user reads its memory.
		if owner := strings.TrimSpace(kit.NodeExec(t, p.Spec.NodeName, "stat", "-c", "%u", fmt.Sprintf("/proc/%d/environ", pid))); owner != "0" {
			t.Errorf("the sidecar of %s is dumpable: its memory belongs to user %s", p.Name, owner)
		}
	}
	return out
}

// onDisk looks through all that the cluster wrote: etcd's data, the kubelet's and containerd's files, the containers' writable layers and
// all logs. What is not looked into are image layers, which were there before. The sidecar's own volume is memory, mounted inside the node alone.
func onDisk(t *testing.T, secret []needles, canary needles) {
	t.Helper()
	etcd, files := false, 0
	err := filepath.WalkDir(os.Getenv("TW_STATE"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "io.containerd.content.v1.content" {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := readFile(path)
		if err != nil {
			return err
		}
		files++
		for _, k := range secret {
			if found := k.in(b); len(found) > 0 {
				t.Errorf("the private key of %s is in the file %s, as %v", k.owner, path, found)
			}
		}
		etcd = etcd || strings.Contains(path, "/cp/etcd/") && len(canary.in(b)) > 0
		return nil
	})
	if err != nil {
		t.Errorf("search the cluster's files: %v", err)
	}
	if !etcd {
		t.Error("the canary was not found in etcd's files: the test shows nothing")
	}
	t.Logf("searched %d files", files)
}

// readFile reads what there is of a file that others write and remove.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
