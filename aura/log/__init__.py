"""The log and everything else that lives on NATS. The only package, with ``runtime``, that imports ``nats``.

=====================================  ==================================================================================
ports                                  ``store`` (the log), ``ports`` (content, output, renewals)
the log on JetStream                   ``jetstream`` puts together ``guarded`` (one append, definite answer), ``batch`` (all
                                       or none), ``group`` (shared flushes), ``reader``, ``tail`` (live); ``identity``
in memory, for simulations             ``memory``, and the memory halves of ``content`` and ``output_memory``
content and output                     ``sealing`` (keys, formats), ``content``, ``content_jetstream``, ``output``,
                                       ``output_jetstream``
around it                              ``topology`` (streams, pools), ``lease``, ``rpc``, ``pool``, ``health``
the connection                         ``connection``, ``inbox`` (replies), ``wire`` (protocol bytes), ``credentials``
=====================================  ==================================================================================
"""
