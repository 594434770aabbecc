using System;
using System.Reflection;

namespace Everscene.Play
{
    /// <summary>`Play.exe CHECK ENDPOINT …`: runs one static method of <see cref="StreamPlay"/> or another of these classes.</summary>
    static class Program
    {
        static int Main(string[] arguments)
        {
            foreach (Type type in new[] { typeof(StreamPlay), typeof(EventsPlay), typeof(EditorPlay), typeof(SamplesPlay) })
            {
                MethodInfo check = type.GetMethod(arguments[0], BindingFlags.Static | BindingFlags.Public);
                if (check == null) continue;
                try
                {
                    check.Invoke(null, new object[] { arguments });
                }
                catch (TargetInvocationException failure)
                {
                    Console.Error.WriteLine(failure.InnerException);
                    return 1;
                }
                Console.WriteLine("good");
                return 0;
            }
            Console.Error.WriteLine("no such check: " + arguments[0]);
            return 2;
        }
    }
}
