"""The command lines of `streamkit package`: one text, for people to copy from."""

from __future__ import annotations

MODULES = "modules.zip"
"""What the topology imports from beside itself, for `--py-files`."""

MAIN = '''"""What spark-submit runs: the streamkit command."""

from streamkit.cli import main

main()
'''

_TEXT = """# Running the batch layer of {name!r} on Spark

Of these, `local` and standalone client mode are what StreamKit's authors could run themselves; YARN, Kubernetes, EMR
and Dataproc were not run, for want of a cluster: the command lines follow their documentation.

What holds for all of them:

- The connector, here `{connector}`,
  must be of the cluster's own Spark version. Nodes need Python {python} where the archive's link `bin/python3` points
  (`tar tvzf environment.tar.gz bin/python3`; `--python-prefix` of `streamkit package` sets it).
- The driver writes the BatchView to `--data` and the manifest to Kafka, last. Readers (`serve`, `query`) need the
  same folder: mount one that is shared (NFS, EFS, Filestore) where the driver is not on their machine.
- Driver and executors must reach BROKERS. Settings for SASL and TLS: `--client-config FILE`, as everywhere; files of
  certificates are read by the driver and sent along.
- Spark's connector is downloaded from Maven by `--packages`; with a mirror of your own, `--conf
  spark.jars.ivySettings=FILE`.

In place of `batch {spec}` each may be `mapreduce {spec}`, with the same options behind it.

## This machine, to try it

```
mkdir environment && tar xzf environment.tar.gz -C environment
spark-submit --master 'local[2]' --packages {connector} {py_files}\\
  --conf spark.pyspark.driver.python=$PWD/environment/bin/python \\
  --conf spark.pyspark.python=$PWD/environment/bin/python \\
  main.py batch {spec} --runner spark --brokers BROKERS --data DATA
```

## Standalone

```
mkdir environment && tar xzf environment.tar.gz -C environment        # for the driver
spark-submit --master spark://HOST:7077 --packages {connector} {py_files}\\
  --archives environment.tar.gz#environment \\
  --conf spark.pyspark.driver.python=$PWD/environment/bin/python --conf spark.pyspark.python=./environment/bin/python \\
  main.py batch {spec} --runner spark --brokers BROKERS --data DATA
```

## YARN (not run)

```
mkdir environment && tar xzf environment.tar.gz -C environment        # for the driver
spark-submit --master yarn --deploy-mode client --packages {connector} {py_files}\\
  --archives environment.tar.gz#environment \\
  --conf spark.pyspark.driver.python=$PWD/environment/bin/python --conf spark.pyspark.python=./environment/bin/python \\
  main.py batch {spec} --runner spark --brokers BROKERS --data DATA
```

## Kubernetes (not run)

The image needs Spark and Python {python}; archive and files at addresses that its pods can read.

```
spark-submit --master k8s://https://HOST:6443 --deploy-mode cluster --packages {connector} {py_files_at}\\
  --conf spark.kubernetes.container.image=IMAGE \\
  --archives s3a://BUCKET/environment.tar.gz#environment --files s3a://BUCKET/{file} \\
  --conf spark.pyspark.driver.python=./environment/bin/python --conf spark.pyspark.python=./environment/bin/python \\
  --conf spark.kubernetes.driver.volumes.persistentVolumeClaim.data.options.claimName=CLAIM \\
  --conf spark.kubernetes.driver.volumes.persistentVolumeClaim.data.mount.path=/data \\
  s3a://BUCKET/main.py batch {spec} --runner spark --brokers BROKERS --data /data
```

## EMR (not run)

```
aws s3 cp . s3://BUCKET/ --recursive
aws emr add-steps --cluster-id CLUSTER --steps 'Type=Spark,Name={name},ActionOnFailure=CONTINUE,Args=[\\
--deploy-mode,cluster,--packages,{connector},{py_files_emr}\\
--archives,s3://BUCKET/environment.tar.gz#environment,--files,s3://BUCKET/{file},\\
--conf,spark.pyspark.python=./environment/bin/python,\\
--conf,spark.yarn.appMasterEnv.PYSPARK_PYTHON=./environment/bin/python,\\
s3://BUCKET/main.py,batch,{spec},--runner,spark,--brokers,BROKERS,--data,/mnt/efs/streamkit]'
```

## Dataproc (not run)

```
gcloud storage cp * gs://BUCKET/
gcloud dataproc jobs submit pyspark gs://BUCKET/main.py --cluster=CLUSTER --region=REGION {py_files_gs}\\
  --archives=gs://BUCKET/environment.tar.gz#environment --files=gs://BUCKET/{file} \\
  --properties='^;^spark.submit.deployMode=cluster;spark.jars.packages={connector};\\
spark.pyspark.python=./environment/bin/python;spark.yarn.appMasterEnv.PYSPARK_PYTHON=./environment/bin/python' \\
  -- batch {spec} --runner spark --brokers BROKERS --data /mnt/filestore/streamkit
```
"""


def commands(name: str, spec: str, file: str, connector: str, python: str, *, modules: bool, environment: bool) -> str:
    """The text for a topology `name`, in the file `file`.

    `python` is the version that nodes need, such as `3.11`. With `modules` there is a zip of what the topology imports;
    without `environment` nodes have one of their own.
    """
    options = {
        "py_files": f"--py-files {MODULES} ",
        "py_files_at": f"--py-files s3a://BUCKET/{MODULES} ",
        "py_files_emr": f"--py-files,s3://BUCKET/{MODULES},",
        "py_files_gs": f"--py-files=gs://BUCKET/{MODULES} ",
    }
    given = {name: text if modules else "" for name, text in options.items()}
    text = _TEXT.format(name=name, spec=spec, connector=connector, python=python, file=file, **given)
    if environment:
        return text
    note = "Packed without an environment: leave out what names one, where nodes have their own."
    return text.replace("\n\n", f"\n\n{note}\n\n", 1)
