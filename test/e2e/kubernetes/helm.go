package kubernetes

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// helm builds the program of that name, from a module of its own.
func (b builder) helm(ctx context.Context) (string, error) {
	const program = "helm.sh/helm/v3/cmd/helm"
	module := filepath.Join(b.root, "test", "e2e", "kubernetes", "helm")
	key, err := keyOf(ctx, module, program)
	if err != nil {
		return "", err
	}
	return b.part("helm-"+key, 2<<30, func(dir string) error {
		began := time.Now()
		b.tell("Building Helm")
		if err := b.goTool(ctx, module, []string{"build", "-v", "-o", dir + string(filepath.Separator)}, program); err != nil {
			return fmt.Errorf("build helm: %w", err)
		}
		b.tell("Built it in %.0f s", time.Since(began).Seconds())
		return nil
	})
}

// tools are the directories of the programs that an administrator of the cluster has.
func (p *Parts) tools() []string {
	if p.Helm == "" {
		return []string{p.Programs}
	}
	return []string{p.Programs, p.Helm}
}
