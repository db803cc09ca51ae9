package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kubectl runs kubectl as the cluster's administrator and returns what it wrote to standard output.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	out, err := c.plane.kubectl(ctx, nil, args...)
	return string(out), err
}

// Apply applies manifests.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	_, err := c.plane.kubectl(ctx, strings.NewReader(manifests), "apply", "-f", "-")
	return err
}

// Get decodes what kubectl get prints as JSON.
func (c *Cluster) Get(ctx context.Context, into any, args ...string) error {
	out, err := c.plane.kubectl(ctx, nil, append([]string{"get", "-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, into)
}

// Field is one value of an object, by kubectl's JSONPath; "" when there is none.
func (c *Cluster) Field(ctx context.Context, path string, args ...string) (string, error) {
	return c.Kubectl(ctx, append([]string{"get", "-o", "jsonpath=" + path, "--ignore-not-found"}, args...)...)
}

// Exec runs a script in a pod and returns its output, trimmed.
func (c *Cluster) Exec(ctx context.Context, pod, script string) (string, error) {
	out, err := c.Kubectl(ctx, "exec", pod, "--", "/bin/sh", "-ec", script)
	return strings.TrimSpace(out), err
}

// Shell runs a script as an administrator types it: in a directory, with kubectl at hand, helm if the cluster was
// started with it, and a namespace to work in.
func (c *Cluster) Shell(ctx context.Context, dir, namespace, script string) (string, error) {
	config := c.plane.file("kubeconfig-of-" + namespace)
	plain, err := os.ReadFile(c.Kubeconfig())
	if err == nil {
		err = os.WriteFile(config, plain, 0o600)
	}
	if err != nil {
		return "", err
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", "kubectl config set-context --current --namespace="+namespace+" >/dev/null\n"+script)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &output, &output
	cmd.Env = append(os.Environ(), "HOME="+c.plane.dir, "KUBECONFIG="+config, "PATH="+strings.Join(append(c.parts.tools(), os.Getenv("PATH")), ":"))
	if err = c.VM.Net.Start(cmd); err != nil {
		return "", err
	}
	err = cmd.Wait()
	return output.String(), err
}

// Kubeconfig is for kubectl in the lab's network, see Enter.
func (c *Cluster) Kubeconfig() string { return c.plane.kubeconfig("admin") }

// Enter is how to run a program in the lab's network while this process lives.
func (c *Cluster) Enter() string { return "nsenter --net=" + c.VM.Net.Path() }

func (p *controlPlane) kubectl(ctx context.Context, in io.Reader, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(p.programs, "kubectl"), append([]string{"--kubeconfig=" + p.kubeconfig("admin")}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+p.dir) // its cache belongs to the lab
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &stdout, &stderr
	if err := p.lab.Net.Start(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return stdout.Bytes(), fmt.Errorf("kubectl %s: %w: %s", tail(strings.Join(args, " "), 300), err, tail(strings.TrimSpace(stderr.String()), 2000))
	}
	return stdout.Bytes(), nil
}
