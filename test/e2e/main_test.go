//go:build e2e

// Package e2e proves on real kernels what no double can: promises of the whole
// product, each named by its test.
package e2e

import (
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/vm/vmtest"
)

func TestMain(m *testing.M) { vmtest.Main(m, endBeds) }
